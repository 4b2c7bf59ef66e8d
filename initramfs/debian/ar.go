package debian

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
)

// arReader walks the members of a common-format ar archive (deb(5)): no long names, no symbol table,
// as Debian packages have it.
type arReader struct {
	r    io.Reader
	left int64 // of the current member, with its padding
	body io.Reader
}

func newArReader(r io.Reader) (*arReader, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, errors.New("not a Debian package: the ar magic is missing")
	}
	return &arReader{r: r}, nil
}

// next goes to the next member; its contents are read from body until the next call. At the end of the
// archive the error is io.EOF.
func (a *arReader) next() (name string, body io.Reader, err error) {
	if a.body != nil {
		if _, err := io.Copy(io.Discard, a.body); err != nil {
			return "", nil, err
		}
		if a.left%2 == 1 {
			var pad [1]byte
			if _, err := io.ReadFull(a.r, pad[:]); err != nil && !errors.Is(err, io.EOF) {
				return "", nil, err
			}
		}
	}
	var h [arHeaderSize]byte
	if _, err := io.ReadFull(a.r, h[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return "", nil, io.EOF
		}
		return "", nil, fmt.Errorf("ar header: %w", err)
	}
	if !bytes.Equal(h[58:], []byte("`\n")) {
		return "", nil, errors.New("ar header is damaged")
	}
	size, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || size < 0 {
		return "", nil, fmt.Errorf("ar header: bad size %q", h[48:58])
	}
	name = strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
	a.left = size
	a.body = &exactReader{r: a.r, left: size}
	return name, a.body, nil
}

// exactReader is io.LimitReader that tells a truncated file from a finished one.
type exactReader struct {
	r    io.Reader
	left int64
}

func (e *exactReader) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if errors.Is(err, io.EOF) && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
