// Package network has the settings of a server's listener and API, and their flags.
package network

import (
	"time"

	"github.com/spf13/pflag"

	"weft/internal/bytesize"
	"weft/internal/settings"
)

// Topic is the section of the help that lists the flags.
const Topic = "Network and API"

// Settings are what a server listens on and how it answers.
type Settings struct {
	Listen       string        // HOST:PORT
	TLSCert      string        // PEM file of the certificate with its chain; "": no TLS
	TLSKey       string        // PEM file of its key
	Monitor      string        // HOST:PORT for probes and metrics without a key; "": none
	Profiles     bool          // pprof on Monitor, also where that is not loopback
	Insecure     bool          // allows another address than loopback, and any Host, without any key
	Hosts        []string      // names in Host that a server on loopback without keys answers, beside loopback's
	KeyFile      string        // one API key per line; "": none
	ServedNames  []string      // of the model in the API, that of answers first; none: its file's or folder's
	Origins      []string      // of web pages that may use the API; "*": every page, with a key
	MaxBody      bytesize.Size // largest request body; 0: 4 MiB
	DrainTimeout time.Duration // how long running requests may finish after the end of serving; 0: 30 s
}

// AddFlags adds the flags to fs and gives s the defaults.
func (s *Settings) AddFlags(fs *pflag.FlagSet) {
	defer settings.Topic(fs, Topic)()
	s.MaxBody = 4 << 20
	fs.StringVar(&s.Listen, "listen", "127.0.0.1:8000", "`HOST:PORT` to listen on")
	fs.StringVar(&s.TLSCert, "tls-cert", "",
		"PEM `file` with the certificate and its chain: serve HTTPS; read again when it changes")
	fs.StringVar(&s.TLSKey, "tls-key", "", "PEM `file` with the key of --tls-cert")
	fs.StringVar(&s.Monitor, "metrics-listen", "",
		"`HOST:PORT` on which probes, /metrics and /load are answered too, without TLS and without a key; on loopback "+
			"/debug/pprof as well")
	fs.BoolVar(&s.Profiles, "pprof", false, "answer /debug/pprof on --metrics-listen where that is not loopback too")
	fs.BoolVar(&s.Insecure, "insecure", false, "allow an address other than loopback without any API key")
	settings.Strings(fs, &s.Hosts, "allowed-host", nil,
		"`name` in the Host header that a server on loopback answers while there is no API key, beside localhost and "+
			"loopback addresses; may be repeated. With --insecure it answers any name")
	fs.StringVar(&s.KeyFile, "api-key-file", "",
		"`file` with one API key per line; requests then need the header Authorization: Bearer KEY")
	settings.Strings(fs, &s.ServedNames, "served-model-name", nil,
		"`name` of the model in the API (default: that of its file or folder); may be repeated, or several separated "+
			"by commas: requests may use each, answers use the first")
	settings.Strings(fs, &s.Origins, "cors-origin", nil,
		"`origin` of web pages that may use the API, e.g. https://chat.example.com; * is every page, with a key only; "+
			"may be repeated")
	fs.Var(&s.MaxBody, "max-body", "largest request body")
	fs.DurationVar(&s.DrainTimeout, "drain-timeout", 30*time.Second,
		"how long running requests may take to finish after SIGTERM or SIGHUP")
}
