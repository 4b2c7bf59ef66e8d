package target

import (
	"slices"
	"strings"
)

// registration is one that the kernel has saved: what is to be written to res_aptpl_metadata to have it back.
type registration struct {
	initiator string
	metadata  string
}

// parseAPTPL reads the file that the kernel writes for a LUN (core_scsi3_update_aptpl_buf). It ends at the first zero
// byte. A registration that is cut off is none.
func parseAPTPL(data []byte) []registration {
	text, _, _ := strings.Cut(string(data), "\x00")
	var all []registration
	var fields []string
	var r registration
	open := false
	for line := range strings.Lines(text) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "PR_REG_START:"):
			fields, r, open = nil, registration{}, true
		case strings.HasPrefix(line, "PR_REG_END:"):
			if open && r.initiator != "" {
				r.metadata = strings.Join(fields, ",")
				all = append(all, r)
			}
			open = false
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok {
				continue
			}
			if key == "initiator_node" {
				r.initiator = value
			}
			fields = append(fields, line)
		}
	}
	return all
}

// initiators are the names in registrations, each once, sorted.
func initiators(all []registration) []string {
	var names []string
	for _, r := range all {
		names = append(names, r.initiator)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
