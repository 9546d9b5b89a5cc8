package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"weft/adapters"
	"weft/server/tenant"
)

// adapterInfo is a version in answers of the admin API.
type adapterInfo struct {
	Ref     string         `json:"ref"`
	Tenant  string         `json:"tenant"`
	Name    string         `json:"name"`
	Digest  string         `json:"digest"`
	Base    string         `json:"base"`
	Current bool           `json:"current"`
	Pinned  bool           `json:"pinned"`
	Tags    []string       `json:"tags"`
	State   adapters.State `json:"state"`
	Reason  string         `json:"reason,omitempty"`
	Rank    int            `json:"rank"`
	Targets []string       `json:"targets"`
	Params  int64          `json:"params"`
	Bytes   int64          `json:"bytes"`
	Created time.Time      `json:"created"`
	Warning string         `json:"warning,omitempty"` // only in the answer to an upload
}

func (s *Server) adapterInfo(v *adapters.Version) adapterInfo {
	state, reason := s.deps.Adapters.State(*v)
	reason = s.public(reason, nil)
	return adapterInfo{v.Ref(), v.Tenant, v.Name, v.Digest, v.Base, v.Current, v.Pinned, append([]string{}, v.Tags...),
		state, reason, v.Rank, append([]string{}, v.Targets...),
		v.Params, v.Bytes, v.Created, s.public(strings.Join(v.Warnings, "; "), nil)}
}

func (s *Server) listAdapters(c *gin.Context) (any, error) {
	out := []adapterInfo{}
	if s.deps.Adapters != nil {
		list, err := s.deps.Adapters.List(c.Request.Context(), c.Param("tenant"))
		if err != nil {
			return nil, err
		}
		for i := range list {
			out = append(out, s.adapterInfo(&list[i]))
		}
	}
	return gin.H{"adapters": out}, nil
}

// versionInfo describes a version, or passes the error on.
func (s *Server) versionInfo(v adapters.Version, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return s.adapterInfo(&v), nil
}

func (s *Server) getAdapter(c *gin.Context) (any, error) {
	return s.versionInfo(
		s.deps.Adapters.Resolve(c.Request.Context(), c.Param("tenant"), c.Param("name"), c.Query("version")))
}

func (s *Server) removeAdapter(c *gin.Context) (any, error) {
	err := s.deps.Adapters.Remove(c.Request.Context(), c.Param("tenant"), c.Param("name"), c.Query("version"))
	return gin.H{"removed": true}, err
}

// versionBody is {"version": "..."}; "" or no body means the current or the previous version, depending on the route.
type versionBody struct {
	Version string `json:"version"`
}

func (s *Server) rollbackAdapter(c *gin.Context) (any, error) {
	var in versionBody
	if err := s.optionalBody(c, &in); err != nil {
		return nil, err
	}
	return s.versionInfo(s.deps.Adapters.Rollback(c.Request.Context(), c.Param("tenant"), c.Param("name"), in.Version))
}

func (s *Server) pinAdapter(c *gin.Context, pinned bool) (any, error) {
	err := s.deps.Adapters.Pin(c.Request.Context(), c.Param("tenant"), c.Param("name"), pinned)
	return gin.H{"pinned": pinned}, err
}

func (s *Server) tagAdapter(c *gin.Context) (any, error) {
	var in versionBody
	err := s.optionalBody(c, &in)
	if err == nil {
		err = s.deps.Adapters.Tag(c.Request.Context(), c.Param("tenant"), c.Param("name"), c.Param("tag"), in.Version)
	}
	return gin.H{"tag": c.Param("tag")}, err
}

func (s *Server) untagAdapter(c *gin.Context) (any, error) {
	err := s.deps.Adapters.Untag(c.Request.Context(), c.Param("tenant"), c.Param("name"), c.Param("tag"))
	return gin.H{"removed": true}, err
}

const (
	maxUploads    = 64 // adapters that are being received
	tenantUploads = 2  // of these for one tenant
	maxChecks     = 4  // received adapters that are checked at once
	maxUpload     = 30 * time.Minute
	slowestUpload = 16 << 10 // bytes a second, after the first minute
)

// uploadAdapter reads a zip, tar or tar.gz of a PEFT folder from the body; the query may have a tag.
func (s *Server) uploadAdapter(c *gin.Context) (any, error) {
	leave, ok := s.uploads.enter(c.Param("tenant"))
	if !ok {
		return nil, errUploads
	}
	defer leave()
	opt, err := s.addOptions(c, c.Param("tenant"))
	if err == nil {
		err = adapters.CheckAdapterName("adapter", c.Param("name"))
	}
	if err != nil {
		return nil, err
	}
	opt.Tag = c.Query("tag")
	file, err := s.receive(c)
	if err != nil {
		return nil, err
	}
	defer func() { _ = errors.Join(file.Close(), os.Remove(file.Name())) }()
	select {
	case s.checks <- struct{}{}:
		defer func() { <-s.checks }()
	case <-c.Request.Context().Done():
		return nil, errClientGone
	}
	return s.versionInfo(
		s.deps.Adapters.AddArchive(c.Request.Context(), c.Param("tenant"), c.Param("name"), file, opt))
}

// addOptions returns the tenant's limits, or tenant.ErrNotFound.
func (s *Server) addOptions(c *gin.Context, name string) (adapters.AddOptions, error) {
	st, err := s.store()
	if err != nil && name == tenant.Default {
		return adapters.AddOptions{}, nil
	}
	if err != nil {
		return adapters.AddOptions{}, err
	}
	t, err := st.Get(c.Request.Context(), name)
	return adapters.AddOptions{MaxCount: t.Settings.AdapterCount, MaxBytes: t.Settings.AdapterBytes}, err
}

// receive writes the body to a temporary file and rewinds it; the caller closes and removes the file.
func (s *Server) receive(c *gin.Context) (*os.File, error) {
	if c.Request.ContentLength > s.cfg.MaxUpload {
		return nil, &http.MaxBytesError{Limit: s.cfg.MaxUpload}
	}
	file, err := os.CreateTemp(s.cfg.UploadDir, "weft-upload-*")
	if err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	in := &pacedReader{in: http.MaxBytesReader(c.Writer, c.Request.Body, s.cfg.MaxUpload),
		control: http.NewResponseController(c.Writer), each: s.cfg.BodyTimeout, began: time.Now()}
	_, err = io.Copy(file, in)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	_ = in.control.SetReadDeadline(time.Time{})
	if err == nil {
		return file, nil
	}
	_ = errors.Join(file.Close(), os.Remove(file.Name()))
	var tooLarge *http.MaxBytesError
	var path *os.PathError
	switch {
	case errors.As(err, &tooLarge), errors.As(err, &path):
		return nil, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errSlowBody
	}
	return nil, fmt.Errorf("%w: %w", errBrokenBody, err)
}

// pacedReader sets a deadline for every read and one for all that was read so far: a body that keeps arriving byte by
// byte ends soon after the first minute.
type pacedReader struct {
	in      io.Reader
	control *http.ResponseController
	each    time.Duration
	began   time.Time
	n       int64
}

func (r *pacedReader) Read(p []byte) (int, error) {
	may := min(2*r.each+time.Duration(r.n/slowestUpload)*time.Second, maxUpload)
	deadline := time.Now().Add(r.each)
	if last := r.began.Add(may); deadline.After(last) {
		deadline = last
	}
	_ = r.control.SetReadDeadline(deadline)
	n, err := r.in.Read(p)
	r.n += int64(n)
	return n, err
}
