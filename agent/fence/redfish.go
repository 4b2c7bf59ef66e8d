package fence

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// Redfish as DMTF DSP0266 and DSP0268 have it: the system's record tells its power, an action with
// ResetType ForceOff is the cable pulled out.

const (
	redfishSystems  = "/redfish/v1/Systems"
	redfishSessions = "/redfish/v1/SessionService/Sessions"
	// mostAnswer bounds an answer, bytes: systems of real servers are some 20 KiB.
	mostAnswer = 1 << 20
)

// system is what we read of a ComputerSystem.
type system struct {
	PowerState string
	Actions    struct {
		Reset struct {
			Target string `json:"target"`
		} `json:"#ComputerSystem.Reset"`
	}
}

// parseSystem reads a ComputerSystem.
func parseSystem(data []byte) (power Power, reset string, err error) {
	var s system
	if err := json.Unmarshal(data, &s); err != nil {
		return Unknown, "", fmt.Errorf("its record of the system is not readable: %w", err)
	}
	if s.Actions.Reset.Target != "" {
		if reset, err = servicePath(s.Actions.Reset.Target); err != nil {
			return Unknown, "", err
		}
	}
	switch s.PowerState {
	case "On", "PoweringOn", "PoweringOff", "Paused": // on the way off is not off
		return On, reset, nil
	case "Off":
		return Off, reset, nil
	}
	return Unknown, reset, fmt.Errorf("it reads its power as %q", s.PowerState)
}

// parseSystems reads the collection of systems. With several, which one is the node's is not for us to guess.
func parseSystems(data []byte) (string, error) {
	var c struct {
		Members []struct {
			ID string `json:"@odata.id"`
		}
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return "", fmt.Errorf("its list of systems is not readable: %w", err)
	}
	if len(c.Members) != 1 {
		return "", fmt.Errorf("it manages %d systems: name the node's with --system", len(c.Members))
	}
	return servicePath(c.Members[0].ID)
}

// servicePath checks a path that the service, or an operator, names: it must be on the service itself, or
// the password would go elsewhere.
func servicePath(p string) (string, error) {
	u, err := url.Parse(p)
	if err != nil || u.Scheme != "" || u.Host != "" || u.RawQuery != "" || u.Fragment != "" || !strings.HasPrefix(u.Path, "/redfish/") || path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") {
		return "", fmt.Errorf("it names %q, which is no path of a Redfish service", p)
	}
	return u.EscapedPath(), nil
}

// redfishClient is one conversation: a connection that ends with it.
type redfishClient struct {
	w       Way
	http    *http.Client
	session string // token, if it wants sessions
	logout  string
}

func redfish(ctx context.Context, w Way, do Action, still func(context.Context) error) (Power, error) {
	c := newRedfish(w)
	defer c.close(ctx)
	at, err := w.System, error(nil)
	if at == "" {
		data, err := c.do(ctx, http.MethodGet, redfishSystems, nil)
		if err != nil {
			return Unknown, err
		}
		if at, err = parseSystems(data); err != nil {
			return Unknown, err
		}
	}
	data, err := c.do(ctx, http.MethodGet, at, nil)
	if err != nil {
		return Unknown, err
	}
	power, reset, err := parseSystem(data)
	if do == Read {
		return power, err
	}
	// An order is given even if the power is not readable: what counts is read afterwards.
	if reset == "" {
		return Unknown, errors.Join(errors.New("it offers no way to switch the system"), err)
	}
	order := map[Action]string{Cut: "ForceOff", SwitchOn: "On"}[do]
	if order == "" {
		return Unknown, fmt.Errorf("action %q is not known", do)
	}
	if err := still(ctx); err != nil {
		return Unknown, fmt.Errorf("the order was not given: %w", err)
	}
	_, err = c.do(ctx, http.MethodPost, reset, map[string]string{"ResetType": order})
	return Unknown, err
}

func newRedfish(w Way) *redfishClient {
	return &redfishClient{w: w, http: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{
				// A controller's certificate is made by itself, for no name: the pinned fingerprint is the proof.
				InsecureSkipVerify: true,
				VerifyConnection:   func(s tls.ConnectionState) error { return pinned(s, w.Fingerprint) },
				MinVersion:         tls.VersionTLS12,
			},
			MaxResponseHeaderBytes: 64 << 10,
			MaxConnsPerHost:        1,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func pinned(s tls.ConnectionState, want string) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("it shows no certificate")
	}
	sum := sha256.Sum256(s.PeerCertificates[0].Raw)
	if got := hex.EncodeToString(sum[:]); got != want {
		return fmt.Errorf("its certificate has the fingerprint %s, not the pinned one: it is another controller, or its certificate was renewed; set it anew with 'skein node bmc set'", got)
	}
	return nil
}

// do sends a request, with the password, or in a session if the controller wants one.
func (c *redfishClient) do(ctx context.Context, method, path string, body any) ([]byte, error) {
	data, status, _, err := c.send(ctx, method, path, body)
	if err == nil && status == http.StatusUnauthorized && c.session == "" && c.login(ctx) == nil {
		data, status, _, err = c.send(ctx, method, path, body)
	}
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return nil, fmt.Errorf("refused %s: it does not take the user and password (%d)", what(method), status)
	case status < 200 || status > 299:
		return nil, fmt.Errorf("refused %s: %d: %s", what(method), status, data)
	}
	return data, nil
}

func what(method string) string {
	if method == http.MethodGet {
		return "to tell the power"
	}
	return "the order"
}

// login opens a session, as controllers that do not take a password with each request want it.
func (c *redfishClient) login(ctx context.Context) error {
	_, status, header, err := c.send(ctx, http.MethodPost, redfishSessions, map[string]string{"UserName": c.w.User, "Password": c.w.Password})
	if err != nil {
		return err
	}
	if status != http.StatusCreated && status != http.StatusOK {
		return fmt.Errorf("no session: %d", status)
	}
	if c.session = header.Get("X-Auth-Token"); c.session == "" {
		return errors.New("a session without a token")
	}
	if u, err := url.Parse(header.Get("Location")); err == nil {
		c.logout, _ = servicePath(u.Path) // one that is not closed expires by itself
	}
	return nil
}

func (c *redfishClient) send(ctx context.Context, method, path string, body any) ([]byte, int, http.Header, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, 0, nil, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.w.Address+path, r)
	if err != nil {
		return nil, 0, nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.session != "" {
		req.Header.Set("X-Auth-Token", c.session)
	} else if path != redfishSessions {
		req.SetBasicAuth(c.w.User, c.w.Password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, 0, nil, reason(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer+1))
	if err != nil {
		return nil, 0, nil, reason(err)
	}
	if len(data) > mostAnswer {
		return nil, 0, nil, fmt.Errorf("its answer has more than %d bytes", mostAnswer)
	}
	return data, resp.StatusCode, resp.Header, nil
}

// reason takes off what net/http puts around an error: the address is known.
func reason(err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("did not answer in time")
	}
	return fmt.Errorf("cannot be asked: %w", err)
}

func (c *redfishClient) close(ctx context.Context) {
	if c.logout != "" {
		_, _, _, _ = c.send(ctx, http.MethodDelete, c.logout, nil) // it expires by itself
	}
	c.http.CloseIdleConnections()
}
