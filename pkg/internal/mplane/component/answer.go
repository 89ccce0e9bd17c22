package component

import (
	"context"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Capabilities returns the capabilities that the peer with the given identity may use.
func (j *Jobs) Capabilities(identity string) []*mplane.Statement {
	var list []*mplane.Statement
	for _, s := range j.services {
		if j.roles.Allowed(s.Capability.Label, identity) {
			list = append(list, s.Capability)
		}
	}
	return list
}

// Capability returns the capability with the given token. It returns nil if there is no
// such capability, or if the peer with the given identity may not use it.
func (j *Jobs) Capability(identity, token string) *mplane.Statement {
	for _, c := range j.Capabilities(identity) {
		if c.ID() == token {
			return c
		}
	}
	return nil
}

// reply returns the reply of the job with the given token. It returns nil if the job has
// not ended, is unknown or belongs to another identity.
func (j *Jobs) reply(token, identity string) mplane.Message {
	j.mu.Lock()
	defer j.mu.Unlock()
	if b, ok := j.jobs[token]; ok && b.owner == identity {
		return b.reply
	}
	return nil
}

// resultTimeout is how long Answer waits for a result before it responds with a receipt
// instead, as in the RI.
const resultTimeout = 5 * time.Second

// NotDelivered does nothing, because replies are kept whether clients get them or not.
func (j *Jobs) NotDelivered(string, mplane.Message) {}

// Answer returns the response to a message of the client-initiated workflow. Answer,
// Capabilities, Capability and NotDelivered make Jobs a wire.Backend.
func (j *Jobs) Answer(ctx context.Context, identity string, m mplane.Message) mplane.Message {
	s, ok := m.(*mplane.Statement)
	if !ok {
		return &mplane.Exception{Message: Unexpected}
	}
	token := s.ID()
	switch s.Kind {
	case mplane.Specification:
		reply := j.Submit(s, identity, nil, nil)
		if _, refused := reply.(*mplane.Exception); refused {
			return reply
		}
		limit, cancel := context.WithTimeout(ctx, resultTimeout)
		defer cancel()
		j.Wait(limit, token)
		return j.State(token, identity)
	case mplane.Redemption:
		return j.State(token, identity)
	case mplane.Interrupt:
		return j.Interrupt(token, identity)
	}
	return &mplane.Exception{Token: token, Message: Unexpected}
}
