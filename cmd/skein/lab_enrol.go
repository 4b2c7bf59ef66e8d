package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// labContext is the name of the context that a lab writes.
const labContext = "lab"

func init() { labAfterUp = formLabCluster }

// formLabCluster waits until the machines are one cluster, makes its user the operator, and deploys the
// demo if asked to.
func formLabCluster(ctx context.Context, info *labInfo) error {
	c, err := enrol(ctx, info)
	if err != nil {
		return err
	}
	info.Progress("the cluster has formed; waiting until all nodes are members")
	if err := waitFor(ctx, c, func(st api.Status) (bool, string) {
		online := 0
		for _, n := range st.Nodes {
			if n.State == cluster.NodeOnline {
				online++
			}
		}
		return online >= len(info.Nodes) && st.Coordinator != "", fmt.Sprintf("%d of %d nodes are online", online, len(info.Nodes))
	}); err != nil {
		return fmt.Errorf("waiting for all nodes to be members: %w", err)
	}
	if err := setLabBMCs(ctx, c, info.Dir); err != nil {
		return err
	}
	if info.Demo == "" || info.Restored {
		return nil
	}
	if err := deployDemo(ctx, c, info); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	fmt.Printf(`
The demo answers at http://10.77.9.10/ (web) and http://10.77.9.12/ (media), inside the lab:
  curl -x http://%s http://10.77.9.10/

Try next:
  skein status                         the cluster at a glance
  skein lab probe http://10.77.9.10/   poll it, in another terminal, while you
  skein lab power off n1               cut the power of a machine
  skein events                         what happened, and why
  skein lab power on n1                it comes back as a member by itself

`, info.Proxy)
	return nil
}

// enrol asks the cluster, as soon as there is one, for an operator's certificate for the lab's key, and
// writes the context with it.
func enrol(ctx context.Context, info *labInfo) (*api.Client, error) {
	keyPEM, err := os.ReadFile(info.OperatorKey)
	if err != nil {
		return nil, err
	}
	key, err := pki.ParseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	lab, err := readLabCluster(info.Dir)
	if err != nil {
		return nil, err
	}
	token, err := admission.ParseToken(lab.Token)
	if err != nil {
		return nil, err
	}
	info.Progress("waiting for the machines to form a cluster")
	var last error
	for {
		for _, n := range info.Nodes {
			for _, a := range n.Addresses {
				addr, err := netip.ParseAddr(a)
				if err != nil {
					continue
				}
				actx, cancel := context.WithTimeout(ctx, 10*time.Second)
				adm, err := admission.JoinVia(actx, info.Dial, netip.AddrPortFrom(addr, cluster.PortAPI), token, key,
					admission.Request{Cluster: info.Cluster, Role: admission.RoleOperator, Name: "lab"})
				cancel()
				if err != nil {
					last = err
					continue
				}
				return saveLabContext(info, adm, keyPEM)
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(errors.New("no machine has formed or joined a cluster"), last)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func saveLabContext(info *labInfo, adm *admission.Admitted, keyPEM []byte) (*api.Client, error) {
	c := clusterContext{Proxy: "socks5://" + info.Proxy, CA: string(adm.CA), Cert: string(adm.Cert), Key: string(keyPEM)}
	for _, n := range info.Nodes {
		c.Endpoints = append(c.Endpoints, fmt.Sprintf("%s:%d", n.Name, cluster.PortAPI))
	}
	if err := saveContext(labContext, c); err != nil {
		return nil, fmt.Errorf("write the context: %w", err)
	}
	return c.client()
}

func deployDemo(ctx context.Context, c *api.Client, info *labInfo) error {
	archives, err := filepath.Glob(filepath.Join(info.Demo, "*.tar"))
	if err != nil || len(archives) == 0 {
		return fmt.Errorf("no images (*.tar) in %s; 'make image' builds them", info.Demo)
	}
	for _, name := range archives {
		info.Progress("loading " + filepath.Base(name))
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = c.LoadImage(ctx, f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	info.Progress("deploying web, media and reports")
	return deploy(ctx, c, filepath.Join(info.Demo, "compose.yaml"), "demo", false, os.Stdout)
}
