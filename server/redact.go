package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// pathFinder finds files below folders of this machine in a text; nil where there are no folders.
func pathFinder(folders []string) *regexp.Regexp {
	var names []string
	add := func(dir string) {
		if dir = filepath.Clean(dir); dir != "." && dir != string(filepath.Separator) {
			names = append(names, regexp.QuoteMeta(dir))
		}
	}
	for _, dir := range folders {
		if dir == "" {
			continue
		}
		add(dir)
		if abs, err := filepath.Abs(dir); err == nil {
			add(abs)
			if real, err := filepath.EvalSymlinks(abs); err == nil {
				add(real)
			}
		}
	}
	if names == nil {
		return nil
	}
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) }) // the longest first
	return regexp.MustCompile("(^|[^\\w./-])(?:" + strings.Join(names, "|") + ")(?:(?:/[^\\s:;,\"'`()]*)+|\\b)")
}

// public returns an error's text as clients may see it: of files of this machine only the names are left. The log has
// their paths.
func (s *Server) public(text string, err error) string {
	for _, path := range pathsOf(err) {
		if filepath.IsAbs(path) {
			text = strings.ReplaceAll(text, path, filepath.Base(path))
		}
	}
	if s.paths == nil {
		return text
	}
	return s.paths.ReplaceAllStringFunc(text, func(found string) string {
		before := s.paths.FindStringSubmatch(found)[1]
		return before + filepath.Base(found)
	})
}

// pathsOf returns the paths in the errors of the operating system that err consists of.
func pathsOf(err error) (paths []string) {
	var file *fs.PathError
	var link *os.LinkError
	if errors.As(err, &file) {
		paths = append(paths, file.Path)
	}
	if errors.As(err, &link) {
		paths = append(paths, link.Old, link.New)
	}
	return paths
}

// hidePaths returns a failure whose text is public.
func (s *Server) hidePaths(f failure, err error) failure {
	if text := s.public(f.Message, err); text != f.Message {
		e := *f.Error
		e.Message = text
		f.Error = &e
	}
	return f
}
