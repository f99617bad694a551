package servers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// packages are the main packages of the servers, by the name of their module
// under tools.
var packages = map[string]string{
	"versitygw": "github.com/versity/versitygw/cmd/versitygw",
	"etcd":      "go.etcd.io/etcd/server/v3",
}

// BuildTool builds a server, "versitygw" or "etcd", from the module under tools
// that pins it, in the source tree around the working directory, and returns
// the path of the program. It is cheap when the program is there already; any
// number of processes may call it at once.
func BuildTool(ctx context.Context, name string) (string, error) {
	pkg, ok := packages[name]
	if !ok {
		return "", fmt.Errorf("build %s: no such server", name)
	}
	root, err := sourceTree()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	path := filepath.Join(root, "bin", name)
	unlock, err := exclusive(path + ".lock")
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer unlock()
	cmd := exec.CommandContext(ctx, "go", "build", "-C", filepath.Join(root, "tools", name), "-o", path, pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// InstallS3 returns the path of a versitygw to run: the one beside this program
// or on PATH, or the one in folder, which is installed there first, by "go
// install", if need be. say is told before a step that takes minutes.
func InstallS3(ctx context.Context, folder string, say func(string)) (string, error) {
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), "versitygw")); err == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath("versitygw"); err == nil {
		return path, nil
	}
	path := filepath.Join(folder, "versitygw-"+VersityGW)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("install versitygw: %w", err)
	}
	if _, err := exec.LookPath("go"); err != nil {
		return "", fmt.Errorf("install versitygw: it is not on PATH, and there is no go command to install it with: "+
			"put versitygw %s on PATH", VersityGW)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("install versitygw: %w", err)
	}
	unlock, err := exclusive(path + ".lock")
	if err != nil {
		return "", fmt.Errorf("install versitygw: %w", err)
	}
	defer unlock()
	say("installing versitygw " + VersityGW + ", an S3 server; this takes a minute or two the first time")
	return path, goInstall(ctx, path)
}

func goInstall(ctx context.Context, path string) error {
	bin, err := os.MkdirTemp(filepath.Dir(path), ".install-")
	if err != nil {
		return fmt.Errorf("install versitygw: %w", err)
	}
	defer os.RemoveAll(bin)
	cmd := exec.CommandContext(ctx, "go", "install", packages["versitygw"]+"@"+VersityGW)
	cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install versitygw: %w\n%s", err, out)
	}
	if err := os.Rename(filepath.Join(bin, "versitygw"), path); err != nil {
		return fmt.Errorf("install versitygw: %w", err)
	}
	return nil
}

// sourceTree returns the folder above the working directory that has tools.
func sourceTree() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "tools", "versitygw", "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no source tree of kiln above the working directory")
		}
		dir = parent
	}
}

// exclusive takes a lock between processes.
func exclusive(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}
