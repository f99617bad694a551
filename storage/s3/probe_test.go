package s3

import (
	"strings"
	"testing"

	"kiln/internal/s3client"
	"kiln/storage"
	"kiln/storage/storagetest"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	conf := Config{Client: newClient(t), Bucket: bucketName, Prefix: prefix(t)}
	got, err := Probe(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if !got.CreateOnly || !got.CompareAndSwap || len(got.Problems) != 0 || got.Lacks() != (Lacks{}) {
		t.Errorf("of versitygw was found: %+v", got)
	}
	err = openBucket(t, conf).List(t.Context(), "", func(i storage.Info) error {
		t.Errorf("the probe left %s", i.Path)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestProbeFindsFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                       string
		server                     *fakeServer
		createOnly, compareAndSwap bool
		problems                   []string // what each says
	}{
		{"None", &fakeServer{}, true, true, nil},
		{"BareETags", &fakeServer{bareETags: true}, true, true, nil},
		{"LosersGet500", &fakeServer{losersGet500: true}, true, true, nil},
		{"OddETags", &fakeServer{oddETags: true}, true, true, nil},
		{"IgnoresBoth", &fakeServer{ignoreAbsent: true, ignoreMatch: true}, false, false, []string{"another's object is there", "a wrong ETag was taken"}},
		{"IgnoresIfNoneMatch", &fakeServer{ignoreAbsent: true}, false, false, []string{"If-None-Match"}},
		{"IgnoresIfMatch", &fakeServer{ignoreMatch: true}, true, false, []string{"a wrong ETag was taken"}},
		{"NeverMatches", &fakeServer{neverMatch: true}, true, false, []string{"a write that had to be accepted was not"}},
		{"Lies", &fakeServer{lies: true}, false, false, []string{"If-None-Match", "If-Match"}},
		{"Racy", &fakeServer{racy: true}, false, false, []string{"another's object is there", "another's object is there"}},
		{"NotImplemented", &fakeServer{refuse: true}, false, false, []string{"501 NotImplemented", "501 NotImplemented"}},
		{"DropsHeaders", &fakeServer{drop: []string{"Cache-Control", "Content-Encoding"}}, true, true, []string{"Content-Encoding is not kept", "Cache-Control is not kept"}},
		{"NoList", &fakeServer{noList: true}, true, true, []string{"cannot be listed"}},
		{"NoDelete", &fakeServer{undeleted: true}, true, true, []string{"after it was deleted"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Probe(t.Context(), Config{Client: c.server.start(t), Bucket: bucketName, Prefix: "log"})
			if err != nil {
				t.Fatal(err)
			}
			if got.CreateOnly != c.createOnly || got.CompareAndSwap != c.compareAndSwap || len(got.Problems) != len(c.problems) {
				t.Fatalf("found: %+v, want %v %v %q", got, c.createOnly, c.compareAndSwap, c.problems)
			}
			for i, p := range got.Problems {
				if !strings.Contains(p, c.problems[i]) {
					t.Errorf("problem %q does not say %q", p, c.problems[i])
				}
			}
			if n := len(c.server.objects); n != 0 && !c.server.undeleted {
				t.Errorf("the probe left %d objects", n)
			}
		})
	}
}

// TestProbeFails is about servers of which nothing can be found out.
func TestProbeFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*s3client.Config)
		bucket string
		want   string
	}{
		{"WrongSecret", func(c *s3client.Config) { c.SecretAccessKey = "wrong" }, bucketName, "check the access key and its secret"},
		{"WrongKey", func(c *s3client.Config) { c.AccessKeyID = "wrong" }, bucketName, "check the access key and its secret"},
		{"WrongRegion", func(c *s3client.Config) { c.Region = "eu-nowhere-1" }, bucketName, "check region and endpoint"},
		{"NoBucket", func(*s3client.Config) {}, "no-such-bucket", "check bucket, endpoint and path style"},
		{"BadBucket", func(*s3client.Config) {}, "No/Bucket", "not the name of a bucket"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Probe(t.Context(), Config{Client: newClient(t, c.change), Bucket: c.bucket, Prefix: "log"})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.bucket) {
				t.Errorf("error %v, want one of %s with %q", err, c.bucket, c.want)
			}
		})
	}
}

// TestSuiteWithout passes the whole suite on servers without conditional writes,
// as long as one process writes.
func TestSuiteWithout(t *testing.T) {
	t.Parallel()
	server := &fakeServer{ignoreAbsent: true, ignoreMatch: true}
	client := server.start(t)
	storagetest.Test(t, func(t *testing.T) storage.Bucket {
		return openBucket(t, Config{Client: client, Prefix: prefix(t), Without: Lacks{CreateOnly: true, CompareAndSwap: true}})
	})
}
