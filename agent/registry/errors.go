package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Codes of the distribution specification, "Error Codes".
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeUploadInvalid       = "BLOB_UPLOAD_INVALID"
	codeUploadUnknown       = "BLOB_UPLOAD_UNKNOWN"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeSizeInvalid         = "SIZE_INVALID"
	codeUnauthorized        = "UNAUTHORIZED"
	codeDenied              = "DENIED"
	codeUnsupported         = "UNSUPPORTED"
	codeTooMany             = "TOOMANYREQUESTS"
	codeUnavailable         = "UNAVAILABLE" // not of the specification: it has none for a registry that is in trouble
)

// refusal is an answer other than success.
type refusal struct {
	status  int
	code    string
	message string
}

func (e *refusal) Error() string { return e.message }

func refuse(status int, code, format string, a ...any) error {
	return &refusal{status, code, fmt.Sprintf(format, a...)}
}

// Errors of a Backend that the handler tells apart, besides those of package container.
var (
	// ErrInUse: a service or a job is made of the image.
	ErrInUse = errors.New("in use")
	// ErrConflict: somebody changed the same name at the same moment.
	ErrConflict = errors.New("somebody else changed the same name at the same moment; try again")
)

func writeError(w http.ResponseWriter, err error) {
	r := &refusal{http.StatusServiceUnavailable, codeUnavailable, err.Error()}
	errors.As(err, &r)
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	_ = json.NewEncoder(w).Encode(map[string][]item{"errors": {{r.code, err.Error()}}}) // the caller has gone: nobody left to tell
}
