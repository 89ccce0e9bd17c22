package mplane

import (
	"slices"
	"strings"
	"sync"
)

// Roles say who may use which capability, by the rules of the RI: the last
// grant whose key is part of the capability's label decides, and the identity
// needs one of its roles. Without a grant, or without a role, nothing is
// allowed. Roles are safe for concurrent use; they must not be copied.
type Roles struct {
	mu         sync.RWMutex
	everything bool // is allowed
	identities map[string][]string
	grants     []grant
}

// Replace makes r allow what o allows, which is not used any more. nil allows
// everything.
func (r *Roles) Replace(o *Roles) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.everything, r.identities, r.grants = o == nil, nil, nil
	if o != nil {
		r.everything, r.identities, r.grants = o.everything, o.identities, o.grants
	}
}

type grant struct {
	label string
	roles []string
}

// Assign gives an identity its roles, separated by commas. Spaces are part of
// the names, as for the RI.
func (r *Roles) Assign(identity, roles string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.identities == nil {
		r.identities = map[string][]string{}
	}
	r.identities[identity] = strings.Split(roles, ",")
}

// Grant allows the roles, separated by commas, to use the capabilities whose
// label contains the given text. Of several grants for a label the last one
// counts.
func (r *Roles) Grant(label, roles string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grants = append(r.grants, grant{label, strings.Split(roles, ",")})
}

// Allowed reports whether an identity may use the capability with a label. A nil
// Roles allows everything: so it is without TLS.
func (r *Roles) Allowed(label, identity string) bool {
	if r == nil {
		return true
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.everything {
		return true
	}
	for _, g := range slices.Backward(r.grants) {
		if strings.Contains(label, g.label) {
			return slices.ContainsFunc(r.identities[identity], func(role string) bool { return slices.Contains(g.roles, role) })
		}
	}
	return false
}
