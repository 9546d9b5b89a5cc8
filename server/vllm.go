package server

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/gin-gonic/gin"

	"weft/adapters"
	"weft/internal/names"
	"weft/server/openai"
)

// The routes of vLLM that load and unload adapters, with vLLM's bodies and answers, for the tenant of the key.
const (
	routeLoadLoRA   = "/v1/load_lora_adapter"
	routeUnloadLoRA = "/v1/unload_lora_adapter"
)

// vLLM's types of errors.
const (
	vllmInvalid  = "InvalidUserInput"
	vllmNotFound = "NotFoundError"
)

func vllmError(kind, format string, args ...any) error {
	return &openai.Error{Type: kind, Message: fmt.Sprintf(format, args...)}
}

// success returns a handler of a function that returns the name of the adapter that it changed.
func (s *Server) success(what string, f func(*gin.Context) (string, error)) gin.HandlerFunc {
	return func(c *gin.Context) {
		name, err := f(c)
		if err != nil {
			s.fail(c, err)
			return
		}
		s.extendWrite(c)
		c.String(http.StatusOK, "Success: LoRA adapter '%s' %s successfully.", name, what)
	}
}

func (s *Server) loadLoRA(c *gin.Context) (string, error) {
	var in struct {
		Name    string `json:"lora_name"`
		Path    string `json:"lora_path"`
		InPlace bool   `json:"load_inplace"`
		Base    string `json:"base_model_name"`
		Is3D    bool   `json:"is_3d_lora_weight"`
	}
	if err := s.adminBody(c, &in); err != nil {
		return "", err
	}
	if in.Name == "" || in.Path == "" {
		return "", vllmError(vllmInvalid, "Both 'lora_name' and 'lora_path' must be provided.")
	}
	if err := adapters.CheckAdapterName("lora_name", in.Name); err != nil {
		return "", vllmError(vllmInvalid, "%s", sentence(err.Error()))
	}
	ctx, own := c.Request.Context(), grantOf(c).Tenant
	_, err := s.deps.Adapters.Resolve(ctx, own, in.Name, "")
	switch {
	case err == nil && !in.InPlace:
		return "", vllmError(vllmInvalid, "The lora adapter '%s' has already been loaded. If you want to load the "+
			"adapter in place, set 'load_inplace' to True.", in.Name)
	case err != nil && !errors.Is(err, adapters.ErrNotFound):
		return "", err
	}
	dir, err := s.adapterDir(in.Path)
	if err != nil {
		return "", err
	}
	opt, err := s.addOptions(c, own)
	if err != nil {
		return "", err
	}
	v, err := s.deps.Adapters.Add(ctx, own, in.Name, dir, opt)
	for _, text := range v.Warnings {
		s.log.Warn("adapter", "ref", v.Ref(), "warning", text)
	}
	return in.Name, err
}

// adapterDir returns the folder that a client names, with links resolved, if it lies below one of AdapterDirs. Its
// errors reveal nothing about other folders of the machine.
func (s *Server) adapterDir(path string) (string, error) {
	outside := vllmError(vllmInvalid,
		"'lora_path' must be an absolute path below one of the folders that this server was given with --adapter-dir.")
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) || !s.belowAdapterDirs(filepath.Clean(path)) {
		return "", outside
	}
	real, err := filepath.EvalSymlinks(path)
	if err == nil && !s.belowAdapterDirs(real) {
		return "", outside
	}
	var info os.FileInfo
	if err == nil {
		info, err = os.Stat(real)
	}
	if err != nil || !info.IsDir() {
		return "", vllmError(vllmNotFound, "No adapter found for %s", singleQuoted(filepath.Base(path)))
	}
	return real, nil
}

// belowAdapterDirs compares with the folders as they were given and with links resolved.
func (s *Server) belowAdapterDirs(path string) bool {
	for _, dir := range s.cfg.AdapterDirs {
		abs, err := filepath.Abs(dir)
		if err != nil {
			continue
		}
		roots := []string{abs}
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			roots = append(roots, real)
		}
		for _, root := range roots {
			if rel, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(rel) {
				return true
			}
		}
	}
	return false
}

func (s *Server) unloadLoRA(c *gin.Context) (string, error) {
	var in struct {
		Name string `json:"lora_name"`
		ID   *int64 `json:"lora_int_id"`
	}
	if err := s.adminBody(c, &in); err != nil {
		return "", err
	}
	if in.Name == "" {
		return "", vllmError(vllmInvalid, "'lora_name' needs to be provided to unload a LoRA adapter.")
	}
	err := s.deps.Adapters.Remove(c.Request.Context(), grantOf(c).Tenant, in.Name, "")
	if errors.Is(err, adapters.ErrNotFound) {
		err = vllmError(vllmNotFound, "The lora adapter %s cannot be found.", singleQuoted(in.Name))
	}
	return in.Name, err
}

// singleQuoted quotes a name from a client as vLLM's messages do.
func singleQuoted(name string) string { return strings.ReplaceAll(names.Quote(name), `"`, `'`) }
