package mplane

import (
	"slices"
	"strings"
	"sync"
)

// Roles determines which identities may use which capabilities, by the RI's rules. A
// grant matches a capability if the grant's label is a substring of the capability's.
// Only the matching grant added last applies: the identity must have one of its roles.
// Without a matching grant, access is denied.
//
// Roles is safe for concurrent use and must not be copied.
type Roles struct {
	mu         sync.RWMutex
	allowAll   bool
	identities map[string][]string
	grants     []grant
}

// Replace replaces the rules of r with those of o. The caller must not use o
// afterwards. A nil o allows everything.
func (r *Roles) Replace(o *Roles) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowAll, r.identities, r.grants = o == nil, nil, nil
	if o != nil {
		r.allowAll, r.identities, r.grants = o.allowAll, o.identities, o.grants
	}
}

type grant struct {
	label string
	roles []string
}

// Assign assigns the comma-separated roles to an identity, and replaces the roles that
// the identity had before. Spaces are part of a role's name, as in the RI.
func (r *Roles) Assign(identity, roles string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.identities == nil {
		r.identities = map[string][]string{}
	}
	r.identities[identity] = strings.Split(roles, ",")
}

// Grant allows the comma-separated roles to use all capabilities whose labels contain the
// given label. If several grants match a capability, only the last one applies.
func (r *Roles) Grant(label, roles string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grants = append(r.grants, grant{label, strings.Split(roles, ",")})
}

// Allowed reports whether an identity may use the capability with the given label. A
// nil Roles allows everything, as the RI does without TLS.
func (r *Roles) Allowed(label, identity string) bool {
	if r == nil {
		return true
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.allowAll {
		return true
	}
	for _, g := range slices.Backward(r.grants) {
		if strings.Contains(label, g.label) {
			return slices.ContainsFunc(r.identities[identity], func(role string) bool { return slices.Contains(g.roles, role) })
		}
	}
	return false
}
