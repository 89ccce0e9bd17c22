package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/shell"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// printReply returns an error if the reply m reports that a job failed. It prints m if
// --json is given, or if show is true and the job did not fail.
func (r runcap) printReply(out io.Writer, m mplane.Message, show bool) error {
	reason := shell.Failed(m)
	if r.JSON || show && reason == "" {
		if err := r.print(out, m); err != nil {
			return err
		}
	}
	if reason != "" {
		return errors.New(reason)
	}
	return nil
}

// printJobs prints the state of each job that s.Memory has saved for the supervisor.
func (r runcap) printJobs(ctx context.Context, out io.Writer, s *shell.Session) error {
	jobs, err := s.Memory.Jobs(s.Client.Root())
	if err != nil {
		return err
	}
	e := &mplane.Envelope{}
	for _, j := range jobs {
		if j.Pending() {
			if j.Message, err = s.Redeem(ctx, j.Token); err != nil {
				return err
			}
		}
		e.Messages = append(e.Messages, j.Message)
		if !r.JSON {
			fmt.Fprintln(out, shell.Line(j.Label, j.Token, j.Message))
		}
	}
	if r.JSON {
		return printMessage(out, e)
	}
	return nil
}

func (r runcap) print(out io.Writer, m mplane.Message) error {
	if r.JSON {
		return printMessage(out, m)
	}
	var b bytes.Buffer
	shell.Show(&b, m)
	_, err := fmt.Fprintln(out, strings.TrimRight(b.String(), "\n"))
	return err
}

func printMessage(out io.Writer, m mplane.Message) error {
	text, err := mplane.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", text)
	return err
}
