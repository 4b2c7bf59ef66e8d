package workload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/compose-spec/compose-go/v2/template"
	goccy "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
	"gopkg.in/yaml.v3"
)

// Limits of a Compose file. They are far above what a person writes and keep a hostile file from using
// up the machine.
const (
	maxFileSize  = 1 << 20   // bytes
	maxNodes     = 100_000   // keys, items and values after all aliases are expanded
	maxDepth     = 64        // of nesting
	maxTemplate  = 64 << 10  // bytes of one value with ${}
	maxExpansion = 4 << 20   // bytes that all ${} together may become
	maxEnvFile   = 256 << 10 // bytes
)

// parse turns the text into maps, lists and scalars, notes where everything is, expands aliases and
// merges, and replaces variables. What it returns is interpolated and has $ escaped again for compose-go.
func (f *file) parse(data []byte) map[string]any {
	if len(data) > maxFileSize {
		f.errorAt(position{1, 1}, "the file has %d bytes, at most %d are read", len(data), maxFileSize)
		return nil
	}
	if !utf8.Valid(data) {
		f.errorAt(invalidUTF8(data), "not valid UTF-8: save the file as UTF-8 text")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0 {
		f.errorAt(position{1, 1}, "the file is empty: it needs services")
		return nil
	}
	if err != nil {
		f.syntaxError(data, err)
		return nil
	}
	if err := dec.Decode(&second); err == nil {
		f.errorAt(nodePos(&second), "a second document begins here: a Compose file has one, remove the ---")
		return nil
	} else if !errors.Is(err, io.EOF) {
		f.syntaxError(data, err)
		return nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		f.errorAt(nodePos(top), "a Compose file is a mapping that begins with services:, this is a %s", kindName(top))
		return nil
	}
	root, _ := f.value(top, "", 0).(map[string]any)
	return root
}

func nodePos(n *yaml.Node) position {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	return position{max(n.Line, 1), max(n.Column, 1)}
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "mapping"
	case yaml.SequenceNode:
		return "list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "empty value"
		}
		return "single value"
	}
	return "alias"
}

func invalidUTF8(data []byte) position {
	p := position{1, 1}
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		if r == utf8.RuneError && n == 1 {
			break
		}
		if p.column++; r == '\n' {
			p = position{p.line + 1, 1}
		}
		data = data[n:]
	}
	return p
}

var yamlLine = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

// syntaxError explains text that is no YAML. yaml.v3 tells a line at most and sometimes a neighbour's;
// goccy's parser, which is stricter, tells line and column of the token it stumbled over.
func (f *file) syntaxError(data []byte, err error) {
	p, msg := position{1, 1}, err.Error()
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		msg = m[2]
		if n, _ := strconv.Atoi(m[1]); n > 0 {
			p.line = n
		}
	}
	lines := strings.Split(string(data), "\n")
	// A tab is what most often is wrong and what nobody sees.
	for i := range min(len(lines), p.line+1) {
		indent := lines[i][:len(lines[i])-len(strings.TrimLeft(lines[i], " \t"))]
		if tab := strings.IndexByte(indent, '\t'); tab >= 0 && i+1 >= p.line-1 {
			f.errorAt(position{i + 1, tab + 1}, "indented with a tab: YAML allows only spaces, replace it by two or more spaces")
			return
		}
	}
	if better, ok := goccyPosition(data); ok {
		p = better
	} else if p.line <= len(lines) {
		l := lines[p.line-1]
		p.column = len(l) - len(strings.TrimLeft(l, " ")) + 1
	}
	hint := "check indentation, colons and quotes here and in the line above"
	switch {
	case strings.Contains(msg, "mapping values are not allowed"):
		hint = "there is a second colon in the line, or the line above should end with one; quote values that contain \": \""
	case strings.Contains(msg, "unknown anchor"):
		hint = "an alias (*name) needs an anchor (&name) above it; quote a value that begins with *"
	case strings.Contains(msg, "unexpected end of stream"):
		hint = "a quote or bracket is not closed"
	}
	f.errorAt(p, "not valid YAML: %s; %s", msg, hint)
}

func goccyPosition(data []byte) (p position, ok bool) {
	defer func() {
		if recover() != nil { // only a better position is at stake
			ok = false
		}
	}()
	_, err := parser.ParseBytes(data, 0)
	var ye goccy.Error
	if !errors.As(err, &ye) || ye.GetToken() == nil || ye.GetToken().Position == nil {
		return position{}, false
	}
	tp := ye.GetToken().Position
	return position{max(tp.Line, 1), max(tp.Column, 1)}, true
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// value converts a node. After an error that would repeat itself endlessly it returns nil.
func (f *file) value(n *yaml.Node, path string, depth int) any {
	f.nodes++
	if f.nodes > maxNodes {
		if f.nodes == maxNodes+1 {
			f.errorAt(nodePos(n), "the file has more than %d values once its aliases (*name) are expanded: write less", maxNodes)
		}
		return nil
	}
	if depth > maxDepth {
		f.errorAt(nodePos(n), "nested more than %d deep", maxDepth)
		return nil
	}
	switch n.Kind {
	case yaml.AliasNode:
		if f.active[n.Alias] {
			f.errorAt(nodePos(n), "alias *%s contains itself", n.Value)
			return nil
		}
		f.active[n.Alias] = true
		defer delete(f.active, n.Alias)
		return f.value(n.Alias, path, depth+1)
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		f.mapping(n, path, depth, m, false)
		return m
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for i, c := range n.Content {
			p := join(path, strconv.Itoa(i))
			f.pos[p] = nodePos(c)
			list = append(list, f.value(c, p, depth+1))
		}
		return list
	case yaml.ScalarNode:
		return f.scalar(n, path)
	}
	return nil
}

// mapping adds the pairs of n to m. Of merged ones (<<) only those whose key is not there yet.
func (f *file) mapping(n *yaml.Node, path string, depth int, m map[string]any, merged bool) {
	first := map[string]*yaml.Node{}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Tag == "!!merge" {
			merges = append(merges, v)
			continue
		}
		if k.Kind != yaml.ScalarNode {
			f.errorAt(nodePos(k), "a key must be a single word, this is a %s", kindName(k))
			continue
		}
		p := join(path, k.Value)
		if before := first[k.Value]; before != nil {
			f.errorAt(nodePos(k), "%s: the key %s is here twice, the first time in line %d: remove one", p, k.Value, before.Line)
			continue
		}
		first[k.Value] = k
		if _, there := m[k.Value]; there && merged {
			continue
		}
		f.pos[p] = nodePos(k)
		m[k.Value] = f.value(v, p, depth+1)
	}
	for _, v := range merges {
		f.merge(v, path, depth+1, m)
	}
}

func (f *file) merge(v *yaml.Node, path string, depth int, m map[string]any) {
	f.nodes++
	if f.nodes > maxNodes || depth > maxDepth {
		f.errorAt(nodePos(v), "too many or too deeply nested merges (<<)")
		return
	}
	switch v.Kind {
	case yaml.AliasNode:
		if f.active[v.Alias] {
			f.errorAt(nodePos(v), "alias *%s contains itself", v.Value)
			return
		}
		f.active[v.Alias] = true
		f.merge(v.Alias, path, depth+1, m)
		delete(f.active, v.Alias)
	case yaml.MappingNode:
		f.mapping(v, path, depth, m, true)
	case yaml.SequenceNode:
		for _, c := range v.Content {
			f.merge(c, path, depth+1, m)
		}
	default:
		f.errorAt(nodePos(v), "<< merges a mapping or a list of mappings, this is a %s", kindName(v))
	}
}

func (f *file) scalar(n *yaml.Node, path string) any {
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
		var v any
		if err := n.Decode(&v); err != nil {
			f.errorAt(nodePos(n), "%s: %v", path, err)
			return nil
		}
		if fl, ok := v.(float64); ok && (fl != fl || fl > 1e300 || fl < -1e300) {
			return n.Value // .inf and .nan are no amounts of anything
		}
		return v
	case "!!str", "!!timestamp":
		return f.interpolate(n, path)
	}
	f.errorAt(nodePos(n), "%s: the tag %s has no meaning in a Compose file: remove it", path, n.Tag)
	return nil
}

// interpolate replaces ${NAME} in a value and escapes what is left for compose-go, which unescapes it and
// turns text into numbers where the specification wants one.
func (f *file) interpolate(n *yaml.Node, path string) any {
	if !strings.Contains(n.Value, "$") {
		return n.Value
	}
	if len(n.Value) > maxTemplate {
		f.errorAt(nodePos(n), "%s: a value with a $ may have at most %d bytes: put larger content in a file", path, maxTemplate)
		return nil
	}
	lookup := func(name string) (string, bool) { v, ok := f.env[name]; return v, ok }
	out, err := template.SubstituteWithOptions(n.Value, lookup, template.WithoutLogging,
		template.WithReplacementFunction(func(s string, m template.Mapping, c *template.Config) (string, error) {
			v, set, err := template.DefaultReplacementAppliedFunc(s, m, c)
			if err == nil && !set && !f.unset[s] {
				f.unset[s] = true
				p := nodePos(n)
				f.warnings = append(f.warnings, Warning{f.name, p.line, p.column, fmt.Sprintf(
					"%s: the variable %s is not set and replaced by nothing; set it, or write ${NAME:-default}", path, s)})
			}
			return v, err
		}))
	if err != nil {
		var required *template.MissingRequiredError
		if errors.As(err, &required) {
			f.errorAt(nodePos(n), "%s: the variable %s must be set: %s", path, required.Variable, required.Reason)
		} else {
			f.errorAt(nodePos(n), "%s: %q is no valid variable reference: write ${NAME}, or $$ for a dollar sign", path, n.Value)
		}
		return nil
	}
	if f.expanded += len(out); f.expanded > maxExpansion {
		f.errorAt(nodePos(n), "%s: variables expand to more than %d bytes", path, maxExpansion)
		return nil
	}
	return strings.ReplaceAll(out, "$", "$$")
}
