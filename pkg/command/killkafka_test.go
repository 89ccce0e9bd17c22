//go:build matrix

package command

import (
	"os/exec"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/kafkatest"
)

// TestKillKafkaBroker kills the sender, the receiver, both, or a real broker between
// them. No line may be lost.
func TestKillKafkaBroker(t *testing.T) {
	b := kafkatest.Start(t, kafkatest.Options{})
	url := "kafka://" + b.Addr + "/tstat"
	k := newKillSides(t, 60) // about 30 rounds of each kind
	k.broker = func() { b.WhileDown(func() {}) }
	k.run(2, func() *exec.Cmd { return k.start("receiver", "--from", url, "--to", "file:"+k.out, "--format", "line") },
		func() *exec.Cmd { return k.start("sender", "--follow", "p1="+k.root, "--to", url) })
}
