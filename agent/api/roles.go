package api

import (
	"slices"
	"strings"
)

// Roles of a caller, taken from its certificate and the ledger (package access).
const (
	RoleNone     = ""
	RoleNode     = "node"
	RoleAdmin    = "admin"    // who gets in, what is encrypted or pulled out for good
	RoleOperator = "operator" // what runs, and where
	RoleReader   = "reader"   // looks on
)

// need is who may use a route: people from a role on, nodes, or both.
type need struct {
	people string // RoleNone: no people
	nodes  bool
}

var (
	lookOn    = need{RoleReader, true}
	operate   = need{RoleOperator, false}
	operateBy = need{RoleOperator, true} // a node passes on what somebody asked it for (onBehalf, onNode)
	govern    = need{RoleAdmin, false}
	nodesOnly = need{RoleNone, true}
)

// routes is who may do what. A route that is not here is for administrators, and a test fails.
var routes = map[string]need{
	"GET /v1/status":         lookOn,
	"GET /v1/events":         lookOn,
	"GET /v1/why":            lookOn,
	"GET /v1/snapshot":       operateBy, // the environment of services may hold passwords
	"GET /v1/decisions":      lookOn,
	"GET /v1/decisions/{id}": operateBy, // with the same

	"PUT /v1/stacks/{stack}":                       operate,
	"DELETE /v1/stacks/{stack}":                    operate,
	"GET /v1/images":                               lookOn,
	"PUT /v1/services/{stack}/{service}/replicas":  operate,
	"POST /v1/services/{stack}/{service}/rollback": operate,
	"POST /v1/images":                              operate,
	"POST /v1/images/pull":                         operate,
	"GET /v1/blobs/{digest}":                       operateBy, // what is in an image may be secret

	"GET /v1/instances/{id}/logs":  lookOn,
	"POST /v1/instances/{id}/exec": operateBy,

	"POST /v1/nodes/{name}/drain":         operate,
	"POST /v1/nodes/{name}/undrain":       operate,
	"POST /v1/nodes/{name}/reboot":        operateBy,
	"POST /v1/nodes/{name}/poweroff":      operateBy,
	"POST /v1/nodes/{name}/release":       operate,
	"POST /v1/nodes/{name}/restart-agent": operateBy,
	"DELETE /v1/nodes/{name}":             govern,

	"PUT /v1/nodes/{name}/bmc":          govern,
	"GET /v1/nodes/{name}/bmc":          govern,
	"DELETE /v1/nodes/{name}/bmc":       govern,
	"POST /v1/nodes/{name}/bmc/test":    operate,
	"GET /v1/fences":                    lookOn,
	"GET /v1/net":                       lookOn,
	"PUT /v1/nodes/{name}/watchdog":     operate,
	"POST /v1/nodes/{name}/confirm-off": operate,
	"PUT /v1/clusterdisk":               govern,
	"GET /v1/clusterdisk":               lookOn,

	"GET /v1/sans":                                                 lookOn,
	"PUT /v1/sans/{san}":                                           govern,
	"DELETE /v1/sans/{san}":                                        govern,
	"GET /v1/nodes/{name}/san":                                     lookOn,
	"POST /v1/nodes/{name}/san/discover":                           operateBy,
	"GET /v1/disks":                                                lookOn,
	"GET /v1/nodes/{name}/disks":                                   lookOn,
	"GET /v1/nodes/{name}/disks/{disk}/registrations":              lookOn,
	"POST /v1/nodes/{name}/disks/{disk}/speed":                     operateBy,
	"POST /v1/nodes/{name}/disks/{disk}/test":                      operateBy,
	"POST /v1/nodes/{name}/disks/{disk}/paths/{path}/test-command": nodesOnly,
	"GET /v1/volumes":                                              lookOn,
	"POST /v1/nodes/{name}/volumes":                                operateBy,
	"POST /v1/nodes/{name}/volumes/{volume}/grow":                  operateBy,
	"DELETE /v1/volumes/{volume}":                                  operate,
	"GET /v1/shared":                                               lookOn,
	"GET /v1/nodes/{name}/shared":                                  lookOn,
	"POST /v1/nodes/{name}/shared":                                 operateBy,
	"POST /v1/nodes/{name}/shared/{fs}/grow":                       operateBy,
	"DELETE /v1/shared/{fs}":                                       operate,
	"POST /v1/shared/{fs}/offline":                                 operate,
	"POST /v1/shared/{fs}/online":                                  operate,
	"POST /v1/nodes/{name}/shared/{fs}/check":                      operateBy,

	"GET /v1/netboot":                lookOn,
	"PUT /v1/netboot":                govern, // what machines boot is what the cluster is made of
	"DELETE /v1/netboot":             govern,
	"POST /v1/netboot/files":         govern,
	"GET /v1/netboot/files/{digest}": operateBy,
	"GET /v1/nodes/{name}/netboot":   lookOn,

	"GET /v1/registry/users":           lookOn,
	"POST /v1/registry/users/{name}":   govern,
	"DELETE /v1/registry/users/{name}": govern,
	"GET /v1/registry/hosts":           lookOn,
	"PUT /v1/registry/hosts/{host}":    govern,
	"DELETE /v1/registry/hosts/{host}": govern,
	"DELETE /v1/images":                operate,
	"POST /v1/images/prune":            operate,

	"POST /v1/jobs/pull":        nodesOnly,
	"POST /v1/jobs":             operateBy,
	"GET /v1/jobs":              lookOn,
	"GET /v1/jobs/{id}":         lookOn,
	"GET /v1/jobs/{id}/output":  lookOn,
	"GET /v1/jobs/{id}/kept":    lookOn,
	"POST /v1/jobs/{id}/cancel": operateBy,
	"POST /v1/jobs/{id}/retry":  operateBy,

	"GET /v1/pending":                   lookOn,
	"POST /v1/pending":                  govern,
	"GET /v1/allowed":                   lookOn,
	"PUT /v1/allowed/{kind}/{value}":    govern,
	"DELETE /v1/allowed/{kind}/{value}": govern,
	"GET /v1/invitations":               lookOn,
	"PUT /v1/invitations/{hash}":        govern,
	"DELETE /v1/invitations/{hash}":     govern,
	"GET /v1/users":                     lookOn,
	"PUT /v1/users/{user}":              govern,
	"DELETE /v1/users/{user}":           govern,
	"POST /v1/certificate":              lookOn, // one's own, renewed

	"GET /debug/pprof/profile": govern,
	"GET /debug/pprof/":        govern,
}

// ranks of people: each may do what those before it may.
var ranks = []string{RoleReader, RoleOperator, RoleAdmin}

// permits tells whether a role is enough.
func (n need) permits(role string) bool {
	if role == RoleNode {
		return n.nodes
	}
	least, has := slices.Index(ranks, n.people), slices.Index(ranks, role)
	return least >= 0 && has >= least
}

// String says who may, for who may not.
func (n need) String() string {
	var who []string
	if i := slices.Index(ranks, n.people); i >= 0 {
		who = append(who, ranks[i:]...)
	}
	if n.nodes {
		who = append(who, RoleNode)
	}
	return strings.Join(who, " or ")
}

// needOf is who may use a route.
func needOf(pattern string) need {
	if n, ok := routes[pattern]; ok {
		return n
	}
	return govern
}
