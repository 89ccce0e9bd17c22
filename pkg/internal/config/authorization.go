package config

import (
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

const groupMPlane = "mPlane"

// registries returns the setting for additional mPlane registries.
func registries(group string, files *[]string) *Setting {
	return &Setting{Name: "registry", Group: group, Value: files, Complete: "file", Empty: "the built-in elements of mPlane and Tstat only",
		Usage: "read more mPlane elements from registry `FILE`"}
}

// Authorization holds the settings that control who may use which capability.
type Authorization struct{ Roles, Grants []string }

// settings returns the role and authorize settings for a command. The parameter is help
// text that says what is allowed if authorize is not set.
func (a *Authorization) settings(everything string) []*Setting {
	return []*Setting{
		{Name: "role", Group: groupMPlane, Value: &a.Roles,
			Usage: "give roles to an identity, as `IDENTITY=ROLE,ROLE`"},
		{Name: "authorize", Group: groupMPlane, Value: &a.Grants, Empty: everything,
			Usage: "let roles use capabilities whose label contains a text, as `TEXT=ROLE,ROLE`; the last match counts"},
	}
}

// check checks the settings and returns them as roles. It returns nil if authorize is not
// set, so that everything is allowed.
func (a *Authorization) check(p *Problems) *mplane.Roles {
	if len(a.Grants) == 0 {
		if len(a.Roles) > 0 {
			p.add("role", "gives nothing without `authorize`")
		}
		return nil
	}
	r := new(mplane.Roles)
	pairs(p, "role", a.Roles, r.Assign)
	pairs(p, "authorize", a.Grants, r.Grant)
	return r
}

// pairs splits each value of the named setting at the last "=" into NAME and ROLE,ROLE,
// and passes both to add. It adds a problem to p for each invalid value.
func pairs(p *Problems, name string, texts []string, add func(name, roles string)) {
	for _, text := range texts {
		i := strings.LastIndexByte(text, '=')
		if i < 1 {
			p.add(name, "%q is not NAME=ROLE,ROLE", text)
			continue
		}
		for role := range strings.SplitSeq(text[i+1:], ",") {
			if role == "" || strings.TrimSpace(role) != role {
				p.add(name, "%q: a role is empty or has spaces around it", text)
			}
		}
		add(text[:i], text[i+1:])
	}
}
