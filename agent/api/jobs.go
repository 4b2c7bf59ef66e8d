package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/job"
	"github.com/skein-os/skein/agent/job/dispatch"
	"github.com/skein-os/skein/agent/job/execute"
)

// Jobs is what the API needs of jobs on its node: the coordinator's half, which only the coordinator has, and what this
// node keeps of tasks' output.
type Jobs interface {
	Pull(ctx context.Context, p *job.Pull) (job.Answer, error)
	Submit(ctx context.Context, spec job.Spec, inputs []string, by string) (job.Job, error)
	List() ([]job.Progress, error)
	Show(id string) (job.Progress, error)
	Outcomes(id string) (job.Job, []job.Outcome, error)
	Input(id string, pos int) string
	Cancel(id, by string) error
	Retry(ctx context.Context, id, by string) (job.Job, error)
	Output(id string, from, to int32, fn func(execute.Text) error) error
}

// Submission is a job as it is submitted.
type Submission struct {
	Spec   job.Spec `json:"spec"`
	Inputs []string `json:"inputs,omitempty"` // one for each task
}

// JobDetail is a job and what failed of it.
type JobDetail struct {
	job.Progress
	Failures []JobFailure `json:"failures"`
	More     int          `json:"more_failures,omitempty"` // that are not listed
}

// JobFailure is a task that failed for good.
type JobFailure struct {
	Index int64  `json:"index"`
	Input string `json:"input,omitempty"`
	Node  string `json:"node"`
	How   string `json:"how"` // for people
	Tries int    `json:"tries"`
}

// TaskOutput is one line of the stream of a job's output: of tasks that wrote something, or failed.
type TaskOutput struct {
	Pos     int32  `json:"pos"` // where to go on is the next one
	Index   int64  `json:"index"`
	Node    string `json:"node,omitempty"`
	OK      bool   `json:"ok"`
	How     string `json:"how,omitempty"` // how it failed
	Stdout  []byte `json:"stdout,omitempty"`
	Stderr  []byte `json:"stderr,omitempty"`
	Dropped uint32 `json:"dropped,omitempty"` // bytes of output that were not kept
	// Lost: why its output cannot be had.
	Lost string `json:"lost,omitempty"`
}

// mostFailures are listed of one job.
const mostFailures = 1000

// maxSubmission bounds a submission, bytes: inputs as JSON.
const maxSubmission = 3 * job.MaxInputs

// HandleJobs adds what concerns jobs. Requests about them are answered by the coordinator; any other node passes them on.
func (s *Server) HandleJobs(j Jobs) {
	reader := []string{RoleOperator, RoleNode}
	at := func(h func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			name := s.backend.Coordinator()
			if name == s.backend.Self() {
				return jobError(h(w, r))
			}
			n := s.backend.State().Node(name)
			if n == nil {
				return &statusError{http.StatusServiceUnavailable, errors.New("there is no coordinator at the moment; try again")}
			}
			return s.forward(w, r, n)
		}
	}
	change := func(h func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
		return at(func(w http.ResponseWriter, r *http.Request) error {
			if err := s.onBehalf(r, "submit and change jobs"); err != nil {
				return err
			}
			return h(w, r)
		})
	}
	s.handle("POST /v1/jobs/pull", []string{RoleNode}, func(w http.ResponseWriter, r *http.Request) error { return jobError(s.pullJobs(j, w, r)) })
	s.handle("POST /v1/jobs", reader, change(func(w http.ResponseWriter, r *http.Request) error {
		var sub Submission
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxSubmission)).Decode(&sub); err != nil {
			return badRequest("submit a job: %w", err)
		}
		out, err := j.Submit(r.Context(), sub.Spec, sub.Inputs, s.asker(r))
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, out)
		return nil
	}))
	s.handle("GET /v1/jobs", reader, at(func(w http.ResponseWriter, r *http.Request) error {
		list, err := j.List()
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, list)
		return nil
	}))
	s.handle("GET /v1/jobs/{id}", reader, at(func(w http.ResponseWriter, r *http.Request) error { return showJob(j, w, r) }))
	s.handle("GET /v1/jobs/{id}/output", reader, at(func(w http.ResponseWriter, r *http.Request) error { return s.jobOutput(j, w, r) }))
	s.handle("GET /v1/jobs/{id}/kept", reader, func(w http.ResponseWriter, r *http.Request) error { return keptOutput(j, w, r) })
	s.handle("POST /v1/jobs/{id}/cancel", reader, change(func(w http.ResponseWriter, r *http.Request) error {
		if err := j.Cancel(r.PathValue("id"), s.asker(r)); err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, struct{}{})
		return nil
	}))
	s.handle("POST /v1/jobs/{id}/retry", reader, change(func(w http.ResponseWriter, r *http.Request) error {
		out, err := j.Retry(r.Context(), r.PathValue("id"), s.asker(r))
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, out)
		return nil
	}))
}

// jobError gives errors of jobs their status.
func jobError(err error) error {
	var refused *dispatch.RefusedError
	var unknown *dispatch.UnknownError
	switch {
	case errors.As(err, &refused):
		return &statusError{http.StatusBadRequest, err}
	case errors.As(err, &unknown):
		return &statusError{http.StatusNotFound, err}
	case errors.Is(err, dispatch.ErrElsewhere):
		return &statusError{http.StatusServiceUnavailable, err}
	}
	return err
}

// pullJobs answers a node that asks for tasks. A node speaks for itself only.
func (s *Server) pullJobs(j Jobs, w http.ResponseWriter, r *http.Request) error {
	var p job.Pull
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxSubmission)).Decode(&p); err != nil {
		return badRequest("ask for tasks: %w", err)
	}
	if _, name := s.role(r); name != p.Node {
		return &statusError{http.StatusForbidden, fmt.Errorf("node %s asks for tasks as %q", name, p.Node)}
	}
	a, err := j.Pull(r.Context(), &p)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, a)
	return nil
}

func showJob(j Jobs, w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	p, err := j.Show(id)
	if err != nil {
		return err
	}
	d := JobDetail{Progress: p, Failures: []JobFailure{}}
	if p.Bad > 0 && r.URL.Query().Get("failures") != "" {
		_, list, err := j.Outcomes(id)
		if err != nil {
			return err
		}
		for _, o := range list {
			for pos := o.From; pos < o.To && !o.OK(); pos++ {
				if len(d.Failures) >= mostFailures {
					d.More++
					continue
				}
				d.Failures = append(d.Failures, JobFailure{Index: p.Spec.Indices.At(int(pos)), Input: j.Input(id, int(pos)), Node: o.Node, How: how(o), Tries: max(o.Tries, 1)})
			}
		}
	}
	writeJSON(w, http.StatusOK, d)
	return nil
}

// how tells for people how a task failed.
func how(o job.Outcome) string {
	switch o.End {
	case job.Exited:
		return "exit code " + strconv.Itoa(o.Code)
	case job.Signalled:
		return "killed by signal " + strconv.Itoa(o.Code)
	case job.TimedOut:
		return "it took longer than its timeout"
	case job.NotStarted:
		return "the command could not be started"
	case job.Vanished:
		return "its container ended under it"
	default:
		return "its nodes were lost under it"
	}
}

// outputEvery is how often it is looked whether more tasks have ended.
const outputEvery = 150 * time.Millisecond

// outputWindow is how many tasks' output is fetched at once.
const outputWindow = 2000

// jobOutput streams what the tasks of a job wrote, by position, as they end, until all have.
func (s *Server) jobOutput(j Jobs, w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	from64, err := strconv.ParseInt(r.URL.Query().Get("from"), 10, 32)
	if err != nil {
		from64 = 0
	}
	to := int32(job.MaxTasks)
	if only := r.URL.Query().Get("index"); only != "" {
		n, err := strconv.ParseInt(only, 10, 64)
		if err != nil {
			return badRequest("index %q is not a number", only)
		}
		jb, _, err := j.Outcomes(id)
		if err != nil {
			return err
		}
		p, ok := jb.Spec.Indices.Position(n)
		if !ok {
			return badRequest("job %s has no task %d; its indices are %s", id, n, jb.Spec.Indices)
		}
		from64, to = int64(p), int32(p+1)
	}
	from := int32(max(from64, 0))
	var st *stream
	known := -1
	for {
		began := time.Now()
		jb, list, err := j.Outcomes(id)
		busy := time.Since(began) // the coordinator, and not the nodes whose output is fetched: one that died is waited for
		if err != nil {
			if st == nil {
				return err
			}
			return st.send(Error{Message: err.Error()})
		}
		if st == nil {
			st = newStream(w)
		}
		to = min(to, int32(jb.Spec.Indices.Len()))
		if jb.OK+jb.Bad != known {
			known = jb.OK + jb.Bad
			if from, err = s.sendOutput(r.Context(), j, st, &jb, list, from, to, jb.State == job.Cancelled); err != nil {
				return nil // the caller has gone
			}
		}
		if from >= to || jb.State.Ended() {
			return nil
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-time.After(max(outputEvery, 20*busy)): // it must not keep the coordinator busy
		}
	}
}

// sendOutput sends the output of tasks from from on, as far as they have ended without a gap; over gaps, if there is
// nothing to wait for.
func (s *Server) sendOutput(ctx context.Context, j Jobs, st *stream, jb *job.Job, list []job.Outcome, from, to int32, gaps bool) (int32, error) {
	i := 0
	for from < to {
		for i < len(list) && list[i].To <= from {
			i++
		}
		if i == len(list) || list[i].From > from && !gaps {
			return from, nil
		}
		from = max(from, list[i].From)
		// A window of tasks without a gap, on whatever nodes.
		end, k := from, i
		for k < len(list) && list[k].From <= end && end < to && end-from < outputWindow {
			end = min(list[k].To, to, from+outputWindow)
			k++
		}
		texts := s.collectOutput(ctx, j, jb.ID, list[i:k], from, end)
		for _, o := range list[i:k] {
			for p := max(o.From, from); p < min(o.To, end); p++ {
				t, wrote := texts[o.Node].at[p]
				lost := ""
				if err := texts[o.Node].err; err != nil {
					lost = err.Error()
				}
				if !wrote && o.OK() && lost == "" {
					continue
				}
				out := TaskOutput{Pos: p, Index: jb.Spec.Indices.At(int(p)), Node: o.Node, OK: o.OK(), Stdout: t.Stdout, Stderr: t.Stderr, Dropped: t.Dropped, Lost: lost}
				if !o.OK() {
					out.How = how(o)
				}
				if err := st.enc.Encode(out); err != nil {
					return from, err
				}
			}
		}
		if err := st.rc.Flush(); err != nil {
			return from, err
		}
		from = end
	}
	return from, ctx.Err()
}

type nodeOutput struct {
	at  map[int32]execute.Text
	err error
}

// collectOutput gets what tasks wrote from the nodes that ran them.
func (s *Server) collectOutput(ctx context.Context, j Jobs, id string, list []job.Outcome, from, to int32) map[string]*nodeOutput {
	out := map[string]*nodeOutput{}
	var wg sync.WaitGroup
	for _, o := range list {
		if out[o.Node] != nil {
			continue
		}
		n := &nodeOutput{at: map[int32]execute.Text{}}
		out[o.Node] = n
		wg.Go(func() { n.err = s.fetchOutput(ctx, j, o.Node, id, from, to, n.at) })
	}
	wg.Wait()
	return out
}

// fetchTime bounds how long one node is waited for: a node that is lost must not hold up the output of the others.
const fetchTime = 10 * time.Second

func (s *Server) fetchOutput(ctx context.Context, j Jobs, node, id string, from, to int32, into map[int32]execute.Text) error {
	take := func(t execute.Text) error { into[t.Pos] = t; return nil }
	if node == "" {
		return nil
	}
	if node == s.backend.Self() {
		return j.Output(id, from, to, take)
	}
	n := s.backend.State().Node(node)
	if n == nil || n.State == cluster.NodeLost {
		return fmt.Errorf("its output was on %s, which is lost", node)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	transport, base := s.backend.Peer(n)
	u := fmt.Sprintf("%s/v1/jobs/%s/kept?from=%d&to=%d", base, url.PathEscape(id), from, to)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("its output is on %s, which does not answer: %w", node, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("its output is on %s, which answered %s", node, resp.Status)
	}
	return lines(resp.Body, take)
}

// keptOutput streams what this node keeps of a job's tasks.
func keptOutput(j Jobs, w http.ResponseWriter, r *http.Request) error {
	from, err := strconv.ParseInt(r.URL.Query().Get("from"), 10, 32)
	to, err2 := strconv.ParseInt(r.URL.Query().Get("to"), 10, 32)
	if err := errors.Join(err, err2); err != nil || from < 0 || to < from {
		return badRequest("output from %q to %q: these must be positions", r.URL.Query().Get("from"), r.URL.Query().Get("to"))
	}
	st := newStream(w)
	if err := j.Output(r.PathValue("id"), int32(from), int32(to), func(t execute.Text) error { return st.enc.Encode(t) }); err != nil {
		return st.send(Error{Message: err.Error()})
	}
	return nil
}

// Submit submits a job.
func (c *Client) Submit(ctx context.Context, sub Submission) (job.Job, error) {
	var j job.Job
	return j, c.get(ctx, http.MethodPost, "/v1/jobs", nil, sub, &j)
}

// Jobs lists all jobs, the oldest first.
func (c *Client) Jobs(ctx context.Context) ([]job.Progress, error) {
	var out []job.Progress
	return out, c.get(ctx, http.MethodGet, "/v1/jobs", nil, nil, &out)
}

// Job is one job, with failures if they are asked for.
func (c *Client) Job(ctx context.Context, id string, failures bool) (JobDetail, error) {
	q := url.Values{}
	if failures {
		q.Set("failures", "1")
	}
	var out JobDetail
	return out, c.get(ctx, http.MethodGet, "/v1/jobs/"+url.PathEscape(id), q, nil, &out)
}

// JobAction asks for cancel or retry of a job; retry gives the new job.
func (c *Client) JobAction(ctx context.Context, id, action string) (job.Job, error) {
	var j job.Job
	return j, c.get(ctx, http.MethodPost, "/v1/jobs/"+url.PathEscape(id)+"/"+action, nil, struct{}{}, &j)
}

// JobOutput calls fn for the output of a job's tasks, by position from from on, as they end; or of one index only.
func (c *Client) JobOutput(ctx context.Context, id string, from int32, index string, fn func(TaskOutput) error) error {
	q := url.Values{"from": {strconv.Itoa(int(from))}}
	if index != "" {
		q.Set("index", index)
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/jobs/"+url.PathEscape(id)+"/output", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return lines(resp.Body, fn)
}

// PullJobs is a node's question for tasks, sent to the node that coordinates.
func PullJobs(ctx context.Context, transport http.RoundTripper, base string, p *job.Pull) (job.Answer, error) {
	c := Client{Endpoints: []string{base}, HTTP: &http.Client{Transport: transport}}
	var a job.Answer
	return a, c.get(ctx, http.MethodPost, "/v1/jobs/pull", nil, p, &a)
}
