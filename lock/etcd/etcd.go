// Package etcd is a [lock.Store] in an etcd cluster: for logs whose sequencers
// run on several machines.
//
// Invariants: a cell is one key, replaced by a transaction on its revision and
// its value; every value is unique (see [kiln/internal/cell]), so that a key that
// was deleted and made anew, or a cluster that was restored from a snapshot, does
// not come by a version again that it had not; no request is repeated behind our
// back; an answer of another cluster than the one that was opened is an error.
//
// The package never knows what the bytes mean.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kiln/internal/cell"
	"kiln/lock"
)

// DefaultTimeout is how long a call may take.
const DefaultTimeout = 5 * time.Second

const (
	// A connection on which requests wait is probed after keepAliveTime, the
	// least that gRPC allows, and given up keepAliveTimeout later.
	keepAliveTime    = 10 * time.Second
	keepAliveTimeout = 3 * time.Second
	// maxBackoff bounds the wait between two tries to connect, which is minutes
	// by default: the log should go on soon after etcd does.
	maxBackoff = time.Second
)

// Config says which cluster is used and how. Endpoints and Prefix are required.
type Config struct {
	Endpoints []string // client URLs, all http or all https

	// PEM files, for https only. CAFile says whom to trust instead of the
	// system's roots; CertFile and KeyFile are the client's own and are read
	// again for each connection.
	CAFile, CertFile, KeyFile string

	Username, Password string // both or neither

	// Prefix is what the keys begin with: the cell ID is at PREFIX/ID.
	Prefix string

	Timeout time.Duration // of a call; default DefaultTimeout
	Logger  *slog.Logger  // default: none
}

// Store is a lock store in etcd. It is safe for concurrent use.
type Store struct {
	*cell.Store
	client *clientv3.Client
}

var _ lock.Store = (*Store)(nil)

// Open connects to a cluster and asks it, so that one that does not answer is
// found now. All endpoints that answer must belong to the same cluster. The
// caller calls Close.
func Open(ctx context.Context, conf Config) (*Store, error) {
	if err := conf.check(); err != nil {
		return nil, fmt.Errorf("open lock in etcd: %w", err)
	}
	s, err := connect(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("open lock in etcd at %s: %w", strings.Join(conf.Endpoints, ", "), err)
	}
	return s, nil
}

// check completes a configuration.
func (c *Config) check() error {
	c.Prefix = strings.TrimRight(c.Prefix, "/")
	if c.Prefix == "" || len(c.Endpoints) == 0 {
		return errors.New("prefix and endpoints are required")
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	schemes := make(map[string]bool)
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/")+u.RawQuery != "" {
			return fmt.Errorf("endpoint %q is not of the form https://HOST:PORT or http://HOST:PORT", e)
		}
		schemes[u.Scheme] = true
	}
	switch {
	case len(schemes) > 1:
		return errors.New("some endpoints are http and others https")
	case schemes["http"] && c.CAFile+c.CertFile+c.KeyFile != "":
		return errors.New("certificates are given, but the endpoints are http: make them https")
	case (c.CertFile == "") != (c.KeyFile == ""):
		return errors.New("a client certificate needs its key, and a key its certificate")
	case (c.Username == "") != (c.Password == ""):
		return errors.New("a user name needs a password, and a password a user name")
	}
	return nil
}

func connect(ctx context.Context, conf Config) (*Store, error) {
	tlsConfig, err := conf.tls()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: conf.Endpoints, TLS: tlsConfig, Username: conf.Username, Password: conf.Password,
		DialTimeout: conf.Timeout, DialKeepAliveTime: keepAliveTime, DialKeepAliveTimeout: keepAliveTimeout,
		// One attempt: the client takes an answer "canceled" or "deadline
		// exceeded" of the server for one that is safe to ask again, a
		// transaction too.
		MaxUnaryRetries: 1,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: conf.Timeout,
		})},
		Logger: zap.NewNop(), // what it has to say it says by its errors
	})
	if err != nil {
		return nil, err
	}
	r := &register{client: client, prefix: conf.Prefix + "/"}
	if r.cluster, err = cluster(ctx, client, conf); err != nil {
		return nil, errors.Join(err, closeClient(client))
	}
	where := "etcd under " + conf.Prefix
	return &Store{Store: cell.NewStore(r, where, conf.Timeout, conf.Logger), client: client}, nil
}

// cluster returns the ID of the cluster that answers.
func cluster(ctx context.Context, client *clientv3.Client, conf Config) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, conf.Timeout)
	defer cancel()
	// As a call of the store will: it may be that a member answers, and that the
	// cluster has no majority, or that we have no right to read.
	resp, err := client.Get(ctx, conf.Prefix+"/", clientv3.WithKeysOnly())
	if err != nil {
		return 0, fmt.Errorf("a first read: %w", err)
	}
	id := resp.Header.GetClusterId()
	type answer struct {
		endpoint string
		cluster  uint64
		err      error
	}
	answers := make(chan answer)
	for _, e := range conf.Endpoints {
		go func() {
			// The read took some of the time; whoever does not answer in what is
			// left is judged by each of its answers later.
			resp, err := client.Status(ctx, e)
			a := answer{endpoint: e, err: err}
			if err == nil {
				a.cluster = resp.Header.GetClusterId()
			}
			answers <- a
		}()
	}
	for range conf.Endpoints {
		a := <-answers
		if a.err != nil {
			conf.Logger.Warn("an etcd endpoint does not answer", "endpoint", a.endpoint, "err", a.err)
		} else if a.cluster != id && err == nil {
			err = fmt.Errorf("%s belongs to another cluster (%x) than the rest (%x): name the endpoints of one cluster", a.endpoint, a.cluster, id)
		}
	}
	return id, err
}

// Close ends the connections. No call may be running or follow.
func (s *Store) Close() error {
	if err := closeClient(s.client); err != nil {
		return fmt.Errorf("close lock in etcd: %w", err)
	}
	return nil
}

func closeClient(c *clientv3.Client) error {
	if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// register is the [cell.Register] on etcd: the place of a value is the revision
// of the cluster at which it was written.
type register struct {
	client  *clientv3.Client
	prefix  string
	cluster uint64
}

// Read implements [cell.Register].
func (r *register) Read(ctx context.Context, id string) (cell.Value, error) {
	resp, err := r.client.Get(ctx, r.prefix+id) // linearizable
	if err != nil {
		return cell.Value{}, classify(err)
	}
	if err := r.ours(resp.Header); err != nil {
		return cell.Value{}, fmt.Errorf("%w: %w", cell.ErrRejected, err)
	}
	if len(resp.Kvs) == 0 {
		return cell.Value{}, lock.ErrNotFound
	}
	return cell.Value{Data: resp.Kvs[0].Value, Place: strconv.FormatInt(resp.Kvs[0].ModRevision, 10)}, nil
}

// Write implements [cell.Register]. Both revision and value are compared: a
// cluster that was restored from a snapshot, and went on from there, comes by
// its revisions again.
func (r *register) Write(ctx context.Context, id string, old cell.Value, data []byte) (string, error) {
	key := r.prefix + id
	condition := []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}
	if old.Place != "" {
		revision, err := strconv.ParseInt(old.Place, 10, 64)
		if err != nil {
			return "", fmt.Errorf("revision %q: %w", old.Place, cell.ErrCondition)
		}
		condition = []clientv3.Cmp{
			clientv3.Compare(clientv3.ModRevision(key), "=", revision),
			clientv3.Compare(clientv3.Value(key), "=", string(old.Data)),
		}
	}
	resp, err := r.client.Txn(ctx).If(condition...).Then(clientv3.OpPut(key, string(data))).Commit()
	if err != nil {
		return "", classify(err)
	}
	if err := r.ours(resp.Header); err != nil {
		return "", err
	}
	if !resp.Succeeded {
		return "", cell.ErrCondition
	}
	return strconv.FormatInt(resp.Header.GetRevision(), 10), nil
}

// ours returns an error for an answer of another cluster, whatever it says: an
// address that changed hands, or a cluster that was restored under our feet.
func (r *register) ours(h *etcdserverpb.ResponseHeader) error {
	if id := h.GetClusterId(); id != r.cluster {
		return fmt.Errorf("cluster %x answered where %x did at the start: if etcd was restored or exchanged, "+
			"make sure that nothing newer is lost, then start again", id, r.cluster)
	}
	return nil
}

// classify marks what the server rejects and would reject again.
func classify(err error) error {
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return fmt.Errorf("%w: %w: compact and defragment etcd, disarm its alarm, and let it compact by itself", cell.ErrRejected, err)
	}
	code := status.Code(err)
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		code = e.Code()
	}
	switch code {
	case codes.PermissionDenied, codes.InvalidArgument, codes.Unimplemented:
		return fmt.Errorf("%w: %w", cell.ErrRejected, err)
	}
	return err
}
