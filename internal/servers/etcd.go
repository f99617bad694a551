package servers

import (
	"context"
	"net"
)

// EtcdConfig says how an etcd server of one member is run. Both are required.
type EtcdConfig struct {
	Binary string // as BuildTool returns it
	Dir    string // keeps its data
}

// Etcd is a running etcd server of one member.
type Etcd struct {
	*Server
	// Endpoint is its client URL.
	Endpoint string
}

// StartEtcd starts an etcd server of one member. The caller calls Stop.
func StartEtcd(ctx context.Context, conf EtcdConfig) (*Etcd, error) {
	client, err := FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	peer, err := FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	e := &Etcd{Endpoint: "http://" + client}
	e.Server = &Server{
		name: "etcd", binary: conf.Binary,
		args: []string{
			"--name", "kiln", "--data-dir", conf.Dir, "--log-level", "warn",
			"--listen-client-urls", e.Endpoint, "--advertise-client-urls", e.Endpoint,
			"--listen-peer-urls", "http://" + peer, "--initial-advertise-peer-urls", "http://" + peer,
			"--initial-cluster", "kiln=http://" + peer,
		},
		healthy: listening(client, e.Endpoint+"/health", true),
	}
	if err := e.Start(ctx); err != nil {
		return nil, err
	}
	return e, nil
}

// accepts reports whether a server takes connections.
func accepts(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
