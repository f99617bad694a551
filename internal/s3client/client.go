// Package s3client speaks to one S3-compatible server: single requests, bounded
// in number and time, with outcomes that say what is known.
//
// Invariants: a call makes one request and never repeats it by itself, but for
// the quoting of an ETag (see [Client.PutIfMatch]); whoever called decides what
// may be tried again, with [Backoff]. No more than Config.Parallel requests are
// under way, fewer after the server asked to slow down; whoever waits obeys its
// context. An outcome is taken for known only when the server said so in words
// of S3: everything else is unknown, which is not the same as failed. A body
// that was damaged on its way, in either direction, is an error.
//
// It is the only package that imports the AWS SDK. The package never knows what
// the objects are, nor logs.
package s3client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
	"github.com/prometheus/client_golang/prometheus"
)

// Defaults of [Config].
const (
	DefaultParallel = 64
	DefaultTimeout  = 5 * time.Second
	DefaultRegion   = "us-east-1"
)

// MaxBody is the largest body that is sent or read, in bytes.
const MaxBody = 1 << 30

const (
	dialTimeout  = 5 * time.Second
	idleTimeout  = 90 * time.Second
	maxErrorBody = 64 << 10 // S3's are some hundred bytes

	// minRate is the slowest transfer of a body that is waited for, in bytes a
	// second: it is added to the time-out of an attempt.
	minRate = 1 << 20
)

// Config says which server is spoken to and how. The zero value is AWS in
// [DefaultRegion] with the credentials that AWS' tools would find.
type Config struct {
	Endpoint  string // URL, http or https; empty is AWS
	Region    string // default DefaultRegion
	PathStyle bool   // http://HOST/BUCKET/KEY and not http://BUCKET.HOST/KEY
	CAFile    string // PEM; whom to trust instead of the system's roots

	// All empty: the default chain of AWS (environment, shared files, role of
	// the machine).
	AccessKeyID, SecretAccessKey, SessionToken string

	Parallel int           // requests under way at a time; default DefaultParallel
	Timeout  time.Duration // of one attempt, plus a second for each MiB of body; default DefaultTimeout

	Logger     *slog.Logger          // default: none
	Registerer prometheus.Registerer // for the metrics of the client; may be nil

	// Transport replaces the connections, in tests. CAFile is not used then.
	Transport http.RoundTripper
}

// Client makes requests. It is safe for concurrent use. One serves all buckets
// of a server that are to share its bounds.
type Client struct {
	api     *s3.Client
	http    *http.Client
	timeout time.Duration
	limit   *limiter
	logger  *slog.Logger
	metrics *metrics
	reg     prometheus.Registerer

	quotes   quoting  // how the server wants ETags in If-Match
	md5ETags etagKind // whether its ETags are MD5 sums
}

// New returns a client. It makes no request, but may read the files and the
// environment that the default chain of AWS names. The caller calls Close.
func New(ctx context.Context, conf Config) (*Client, error) {
	c, err := newClient(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("make S3 client: %w", err)
	}
	return c, nil
}

func newClient(ctx context.Context, conf Config) (*Client, error) {
	if conf.Region == "" {
		conf.Region = DefaultRegion
	}
	if conf.Parallel < 1 {
		conf.Parallel = DefaultParallel
	}
	if conf.Timeout <= 0 {
		conf.Timeout = DefaultTimeout
	}
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	endpoint, err := checkEndpoint(conf.Endpoint)
	if err != nil {
		return nil, err
	}
	provider, err := provideCredentials(ctx, conf)
	if err != nil {
		return nil, err
	}
	transport := conf.Transport
	if transport == nil {
		if transport, err = newTransport(conf); err != nil {
			return nil, err
		}
	}
	c := &Client{
		http: &http.Client{
			Transport: boundErrors{transport},
			// A redirect of S3 means a wrong region or endpoint: it is told.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		timeout: conf.Timeout, limit: newLimiter(conf.Parallel), logger: conf.Logger,
		metrics: newMetrics(), reg: conf.Registerer,
	}
	c.api = s3.New(s3.Options{
		BaseEndpoint: endpoint, Region: conf.Region, UsePathStyle: conf.PathStyle,
		Credentials: provider, HTTPClient: c.http, Retryer: aws.NopRetryer{},
		// The SDK's own checksums come as trailers, which many servers refuse;
		// Content-MD5 does the same and all of them know it.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})
	if err := c.metrics.register(conf.Registerer, c.limit); err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends idle connections and takes the metrics back. Requests under way
// are not waited for.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	c.metrics.unregister(c.reg)
}

// Pressed reports whether requests are waiting to be made, or held back because
// the server asked to slow down: no time for requests that are only a courtesy.
func (c *Client) Pressed() bool { return c.limit.pressed() }

func checkEndpoint(endpoint string) (*string, error) {
	if endpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return nil, fmt.Errorf("endpoint: %w", err)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", u.RawQuery != "", u.User != nil:
		return nil, fmt.Errorf("endpoint %q is not of the form https://HOST or http://HOST:PORT", endpoint)
	}
	return &endpoint, nil
}

func provideCredentials(ctx context.Context, conf Config) (aws.CredentialsProvider, error) {
	switch {
	case conf.AccessKeyID != "" && conf.SecretAccessKey != "":
		return credentials.NewStaticCredentialsProvider(conf.AccessKeyID, conf.SecretAccessKey, conf.SessionToken), nil
	case conf.AccessKeyID != "" || conf.SecretAccessKey != "" || conf.SessionToken != "":
		return nil, errors.New("an access key needs both its ID and its secret")
	}
	chain, err := config.LoadDefaultConfig(ctx, config.WithRegion(conf.Region), config.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, fmt.Errorf("find credentials: %w", err)
	}
	return defaultChain{chain.Credentials}, nil
}

// errNoCredentials says that the default chain of AWS came to its end.
var errNoCredentials = errors.New("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file with them")

// defaultChain says in words of an operator that there are no credentials; the
// chain itself speaks of the last place where it looked.
type defaultChain struct{ aws.CredentialsProvider }

// Retrieve implements [aws.CredentialsProvider].
func (c defaultChain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	found, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return found, fmt.Errorf("%w (%w)", errNoCredentials, err)
	}
	return found, nil
}

func newTransport(conf Config) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: 0, // the attempt's own covers it
		ExpectContinueTimeout: time.Second,
		MaxIdleConns:          conf.Parallel,
		MaxIdleConnsPerHost:   conf.Parallel,
		IdleConnTimeout:       idleTimeout,
		// Bodies are kept as stored: a compressed tile is not to be unpacked.
		DisableCompression: true,
	}
	if conf.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(conf.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read CA file: %w", err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read CA file %s: no certificate in it", conf.CAFile)
	}
	return t, nil
}

// boundErrors cuts the bodies of error answers, which the SDK reads whole.
type boundErrors struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b boundErrors) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode >= http.StatusMultipleChoices {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxErrorBody), resp.Body}
	}
	return resp, err
}

// CloseIdleConnections lets http.Client reach the pool below.
func (b boundErrors) CloseIdleConnections() {
	if c, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
