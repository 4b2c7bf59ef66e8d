package api

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"

	"github.com/skein-os/skein/agent/cluster"
)

// ForwardedHeader marks a request that a node passed on, so that two nodes with different views of who
// owns an instance cannot pass it on for ever.
const ForwardedHeader = "Skein-Forwarded-By"

// forward passes the request on to the node that has what it is about.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, n *cluster.Node) error {
	if by := r.Header.Get(ForwardedHeader); by != "" {
		return notFound("%s sent this request here, but it belongs to %s; try again", by, n.Name)
	}
	transport, base := s.backend.Peer(n)
	target, err := url.Parse(base)
	if err != nil {
		return fmt.Errorf("address of %s: %w", n.Name, err)
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Header.Set(ForwardedHeader, s.backend.Self())
			p.Out.Header.Set(OperatorHeader, s.asker(r))
		},
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			writeError(w, &statusError{http.StatusBadGateway, fmt.Errorf("ask node %s: %w", n.Name, err)})
		},
	}
	proxy.ServeHTTP(w, r)
	return nil
}

// owner finds the node that runs an instance. A nil node means: this one.
func (s *Server) owner(id string) (*cluster.Node, error) {
	st := s.backend.State()
	for i := range st.Instances {
		if in := &st.Instances[i]; in.ID == id {
			if in.Node == s.backend.Self() {
				return nil, nil
			}
			n := st.Node(in.Node)
			if n == nil || n.State == cluster.NodeLost {
				return nil, conflict("instance %s was on %s, which is lost", id, in.Node)
			}
			return n, nil
		}
	}
	return nil, notFound("there is no instance %q; 'skein ps' lists them", id)
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	n, err := s.owner(id)
	if err != nil {
		return err
	}
	if n != nil {
		return s.forward(w, r, n)
	}
	tail, err := strconv.Atoi(r.URL.Query().Get("tail"))
	if err != nil {
		tail = -1 // everything that is kept
	}
	st := newStream(w)
	return s.backend.Logs(r.Context(), id, r.URL.Query().Get("follow") == "1", tail, func(line string) error {
		return st.send(LogLine{Instance: id, Line: line})
	})
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) error {
	if err := s.onBehalf(r, "run commands in containers"); err != nil {
		return err
	}
	id := r.PathValue("id")
	n, err := s.owner(id)
	if err != nil {
		return err
	}
	if n != nil {
		return s.forward(w, r, n)
	}
	var argv []string
	if err := json.Unmarshal([]byte(r.URL.Query().Get("argv")), &argv); err != nil || len(argv) == 0 {
		return badRequest("exec in %s: no command given", id)
	}
	s.record(r, cluster.Event{Kind: cluster.EventService, Subject: id, Text: fmt.Sprintf("command %s is run in %s", commandName(argv), id)})
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex() // HTTP/1 only; HTTP/2 is full duplex anyway
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	_ = rc.Flush()
	f := &frames{w: w, rc: rc}
	code, err := s.backend.Exec(r.Context(), id, argv, r.Body, f.writer(FrameStdout), f.writer(FrameStderr))
	if err != nil {
		f.write(FrameError, []byte(err.Error()))
	} else {
		f.write(FrameExit, []byte(strconv.Itoa(code)))
	}
	return nil
}

// frames interleaves the output streams of a command on one answer.
type frames struct {
	mu sync.Mutex
	w  io.Writer
	rc *http.ResponseController
}

func (f *frames) write(kind byte, p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for off := 0; ; {
		n := min(len(p)-off, MaxFrame)
		head := [5]byte{kind}
		binary.BigEndian.PutUint32(head[1:], uint32(n))
		if _, err := f.w.Write(head[:]); err != nil {
			return off, err
		}
		if _, err := f.w.Write(p[off : off+n]); err != nil {
			return off, err
		}
		if off += n; off >= len(p) {
			return off, f.rc.Flush()
		}
	}
}

func (f *frames) writer(kind byte) io.Writer {
	return writerFunc(func(p []byte) (int, error) { return f.write(kind, p) })
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// ReadFrame reads one frame of an exec answer.
func ReadFrame(r io.Reader) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("exec answer: frame of %d bytes, at most %d are allowed", n, MaxFrame)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return head[0], payload, err
}
