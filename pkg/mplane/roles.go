package mplane

import (
	"slices"
	"strings"
)

// Roles say who may use which capability, by the rules of the RI: the last
// grant whose key is part of the capability's label decides, and the identity
// needs one of its roles. Without a grant, or without a role, nothing is
// allowed.
type Roles struct {
	identities map[string][]string
	grants     []grant
}

type grant struct {
	label string
	roles []string
}

// Assign gives an identity its roles, separated by commas. Blanks are part of
// the names, as for the RI.
func (r *Roles) Assign(identity, roles string) {
	if r.identities == nil {
		r.identities = map[string][]string{}
	}
	r.identities[identity] = strings.Split(roles, ",")
}

// Grant allows the roles, separated by commas, to use the capabilities whose
// label contains the given text. Of several grants for a label the last one
// counts.
func (r *Roles) Grant(label, roles string) {
	r.grants = append(r.grants, grant{label, strings.Split(roles, ",")})
}

// Allowed tells whether an identity may use the capability with a label. A nil
// Roles allows everything: so it is without TLS.
func (r *Roles) Allowed(label, identity string) bool {
	if r == nil {
		return true
	}
	for _, g := range slices.Backward(r.grants) {
		if strings.Contains(label, g.label) {
			return slices.ContainsFunc(r.identities[identity], func(role string) bool { return slices.Contains(g.roles, role) })
		}
	}
	return false
}
