package node

import (
	"crypto/tls"
	"fmt"
	"net"

	"weft/internal/certificate"
	"weft/server"
)

// checkListeners refuses settings of the listeners that cannot be right, whatever the keys are.
func checkListeners(c *Config) error {
	for name, address := range map[string]string{"listen": c.Listen, "metrics-listen": c.Monitor} {
		if _, _, err := net.SplitHostPort(address); err != nil && (address != "" || name == "listen") {
			return refusef("%s %q: write HOST:PORT, e.g. 127.0.0.1:8000", name, address)
		}
	}
	switch {
	case c.Profiles && c.Monitor == "":
		return refusef("pprof needs the address of --metrics-listen")
	case c.TLSCert == "" && c.TLSKey != "":
		return refusef("tls-key needs --tls-cert too")
	case c.TLSCert != "" && c.TLSKey == "":
		return refusef("tls-cert needs --tls-key too")
	}
	return nil
}

// listen opens the listeners; they answer from now on.
func (n *Node) listen() error {
	var config *tls.Config
	if n.cfg.TLSCert != "" {
		var err error
		if config, err = certificate.Config(n.cfg.TLSCert, n.cfg.TLSKey, n.log); err != nil {
			return refusef("tls-cert: %v", err)
		}
	}
	l, err := net.Listen("tcp", n.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	n.Addr = l.Addr()
	if config != nil {
		l = tls.NewListener(l, config)
	}
	n.front = server.NewFront(l, n.log, n.cfg.Origins...)
	n.log.Info("weft", "version", n.cfg.Version, "listen", n.Addr.String())
	if n.cfg.Monitor == "" {
		return nil
	}
	if l, err = net.Listen("tcp", n.cfg.Monitor); err != nil {
		return fmt.Errorf("metrics-listen: %w", err)
	}
	n.Monitor, n.monitor = l.Addr(), server.NewFront(l, n.log)
	n.log.Info("metrics and probes without a key", "listen", n.Monitor.String())
	return nil
}

// checkAddress refuses an address that other machines can reach where no key is needed.
func checkAddress(listen string, haveKeys, insecure bool) error {
	if haveKeys || insecure || Loopback(listen) {
		return nil
	}
	return refusef(
		"listen %s would let every client that can reach this machine use the model: add a key with `weft keys "+
			"add`, give --api-key-file FILE, or allow it with --insecure", listen)
}

// Loopback reports whether an address HOST:PORT can be reached only from this machine.
func Loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
