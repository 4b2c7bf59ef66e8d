package cluster

// Txn is one atomic change of the ledger: all conditions hold at once and everything is written, or
// nothing is.
type Txn struct {
	Conditions []Condition
	Puts       []Put
	Deletes    []string // keys
	// Events are appended to the ledger's event log in the same transaction; the store fills in Seq.
	Events []Event
}

// Condition: the key's mod revision must be as stated; 0 means the key must not exist.
type Condition struct {
	Key      string
	Revision int64
}

// Put writes a record as JSON.
type Put struct {
	Key   string
	Value any
}
