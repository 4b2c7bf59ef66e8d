package ethernet

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Stream speaks the framing of QEMU's -netdev stream on a connection: each frame after its length, 32
// bits big-endian.
type Stream struct {
	conn io.ReadWriteCloser
	buf  []byte
}

// NewStream wraps a connection to a QEMU network device.
func NewStream(conn io.ReadWriteCloser) *Stream { return &Stream{conn: conn} }

// WriteFrames implements Sink. One write carries all frames.
func (s *Stream) WriteFrames(frames [][]byte) error {
	s.buf = s.buf[:0]
	for _, f := range frames {
		s.buf = binary.BigEndian.AppendUint32(s.buf, uint32(len(f)))
		s.buf = append(s.buf, f...)
	}
	_, err := s.conn.Write(s.buf)
	return err
}

// ReadFrames hands every frame that arrives to receive, until the connection ends. A clean end is nil.
func (s *Stream) ReadFrames(receive func([]byte)) error {
	r := bufio.NewReaderSize(s.conn, 64<<10)
	for {
		frame, err := readFrame(r)
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		receive(frame)
	}
}

// Close ends the connection: a blocked read or write returns.
func (s *Stream) Close() error { return s.conn.Close() }

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxFrame {
		return nil, fmt.Errorf("network device sent a frame of %d bytes, more than %d: framing is lost", n, MaxFrame)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, fmt.Errorf("network device ended inside a frame: %w", err)
	}
	return frame, nil
}
