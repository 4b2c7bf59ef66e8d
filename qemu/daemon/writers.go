package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/skein-os/skein/qemu/writers"
)

func (s *server) writers(w http.ResponseWriter, r *http.Request) {
	var shared []uint64
	for _, text := range r.URL.Query()["shared"] {
		lun, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			http.Error(w, fmt.Sprintf("shared LUN %q is not a number", text), http.StatusBadRequest)
			return
		}
		shared = append(shared, lun)
	}
	enc := json.NewEncoder(w)
	if r.FormValue("follow") == "" {
		_ = enc.Encode(s.lab.Writers(shared))
		return
	}
	_ = http.NewResponseController(w).Flush()
	_ = s.lab.FollowWriters(r.Context(), shared, func(rec writers.Record) error {
		err := enc.Encode(rec)
		_ = http.NewResponseController(w).Flush()
		return err
	})
}

func writersPath(shared []uint64, follow bool) string {
	q := url.Values{}
	for _, lun := range shared {
		q.Add("shared", strconv.FormatUint(lun, 10))
	}
	if follow {
		q.Set("follow", "1")
	}
	return "/writers?" + q.Encode()
}

// Writers asks who writes to the disks of a SAN. The LUNs in shared may have several writers.
func (c *Client) Writers(ctx context.Context, shared []uint64) (*writers.Report, error) {
	resp, err := c.do(ctx, http.MethodGet, writersPath(shared, false), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var r writers.Report
	return &r, json.NewDecoder(resp.Body).Decode(&r)
}

// FollowWriters calls emit for each finding so far and each that comes, until ctx or the lab ends.
func (c *Client) FollowWriters(ctx context.Context, shared []uint64, emit func(writers.Record) error) error {
	resp, err := c.do(ctx, http.MethodGet, writersPath(shared, true), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var r writers.Record
		if err := dec.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := emit(r); err != nil {
			return err
		}
	}
}
