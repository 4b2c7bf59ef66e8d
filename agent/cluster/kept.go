package cluster

// KeptBlob is a blob of an image on the cluster disk, where it outlasts a loss of power of all nodes.
type KeptBlob struct {
	Digest string `json:"digest"`
	Off    int64  `json:"off"`        // where on the disk, bytes
	Room   int64  `json:"room"`       // that it has there, bytes
	Size   int64  `json:"size_bytes"` // of the blob
	// Whole: it was written, flushed, and read back.
	Whole bool `json:"whole"`
	// Writers are the boots that may have a write to it under way. What they write is always this blob, so several do no
	// harm; but the room is another blob's only when all of them have ended.
	Writers []BootOf `json:"writers"`

	Revision int64 `json:"-"`
}

// BootOf is one boot of a node.
type BootOf struct {
	Node   string `json:"node"`
	BootID string `json:"boot_id"`
}

// Key is the ledger's key of the blob.
func (k *KeptBlob) Key() string { return KeyKept + k.Digest }

// Blob finds what is kept of a blob, nil if nothing.
func (s *State) Blob(digest string) *KeptBlob {
	for i := range s.Kept {
		if s.Kept[i].Digest == digest {
			return &s.Kept[i]
		}
	}
	return nil
}

// IsKept tells whether all of an image is on the cluster disk.
func (s *State) IsKept(im *Image) bool {
	for _, b := range im.Blobs {
		if k := s.Blob(b); k == nil || !k.Whole {
			return false
		}
	}
	return s.LedgerDisk != nil && len(im.Blobs) > 0
}
