package cluster

// Pledge is a promise of one boot of a machine that has no vote in the ledger: to enter it, and to become a
// voter, only through this boot of this member, which is alone with its copy. Every other machine must have
// given it before that member may go on alone (package store). It ends when that member's ledger answers
// again, restored or not, or when that boot of the member has ended.
type Pledge struct {
	ClusterID   string `json:"cluster_id"`
	Node        string `json:"node"`
	BootID      string `json:"boot_id"`
	Incarnation uint64 `json:"incarnation"` // of the ledger when it was given
	// Copy is the revision of the member's copy, if it is known for certain what is in it. Seen is the newest
	// revision that the promising boot has acted on, of that incarnation. If Seen is later, the boot must end:
	// it may run what the restored ledger gives to others.
	Copy int64 `json:"copy,omitempty"`
	Seen int64 `json:"seen,omitempty"`
}
