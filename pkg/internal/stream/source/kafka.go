package source

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/broker"
)

const (
	// kafkaFetch is the maximum size of a fetch from one broker in bytes.
	// kafkaInflated is the maximum size of a decompressed record batch.
	kafkaFetch    = 4 << 20
	kafkaInflated = 8 << 20
	// kafkaAbsence is the session timeout of a group member. A process that
	// restarts within this time keeps its partitions.
	kafkaAbsence = 20 * time.Second
	// kafkaHandOver is how long a revoked partition waits for sinks to ack
	// its lines. The next member reads unacked lines again.
	kafkaHandOver = 10 * time.Second
	// commitTimeout bounds the last commit.
	commitTimeout = 5 * time.Second
)

// kafkaSource consumes a topic as a member of a consumer group. It commits an offset
// once the lines of all earlier messages are acked.
type kafkaSource struct {
	*reader
	instance string        // static member id, the same after a restart
	session  time.Duration // session timeout, see kafkaAbsence

	committing sync.Mutex // held while offsets are committed
	failing    retry.Alarm

	mu    sync.Mutex
	parts map[int32]*part // assigned to this member
}

// part is an assigned partition. The positions of its Tracker are Kafka offsets: the
// position after the message with offset n is n+1.
type part struct {
	batch.Tracker
	revoked   atomic.Bool // the partition was revoked
	committed int64       // guarded by kafkaSource.committing
	next      int64       // offset to read next; used only by the reading goroutine
}

func (s *kafkaSource) Run(ctx, reading context.Context) error {
	client, err := s.open(reading)
	if err != nil {
		return nil // reading has ended
	}
	work, done := context.WithCancel(ctx)
	defer done()
	var commits sync.WaitGroup
	commits.Go(func() { s.commits(work, client) })
	for reading.Err() == nil {
		if err := s.poll(ctx, reading, client); err != nil {
			break // the sinks are blocked
		}
	}
	s.drain(ctx, s.assigned())
	done()
	commits.Wait()
	s.leave(client)
	return nil
}

// open connects to the broker and joins the consumer group. It retries all failures,
// since the topic may not exist yet, and returns an error only if ctx is done.
func (s *kafkaSource) open(ctx context.Context) (*kgo.Client, error) {
	inner := &broker.KafkaLog{Logger: s.log}
	var opening retry.Alarm
	for {
		client, err := kgo.NewClient(append(broker.KafkaOptions(s.broker, s.files, s.set.opt.Peers, inner),
			kgo.ConsumerGroup(s.group), kgo.InstanceID(s.instance), kgo.ConsumeTopics(s.broker.Name), kgo.DisableAutoCommit(),
			kgo.SessionTimeout(s.session), kgo.HeartbeatInterval(s.session/6),
			kgo.FetchMaxBytes(kafkaFetch), kgo.MaxDecompressBatchBytes(kafkaInflated),
			kgo.OnPartitionsAssigned(s.onAssigned), kgo.OnPartitionsRevoked(s.onRevoked), kgo.OnPartitionsLost(s.onLost))...)
		if err == nil {
			if err = broker.CheckTopic(ctx, client, s.broker); err != nil {
				client.Close()
			}
		}
		if err != nil && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		opening.Set(err, s.log, "source cannot be opened, retrying", "source reconnected")
		if err == nil {
			return client, nil
		}
		if err := s.back.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// poll fetches messages and delivers them. It returns an error only if ctx is done.
func (s *kafkaSource) poll(ctx, reading context.Context, client *kgo.Client) (err error) {
	fetches := client.PollFetches(reading)
	if reading.Err() != nil {
		return nil
	}
	fetches.EachError(func(_ string, partition int32, err error) {
		var inflated *kgo.ErrDecompressTooLarge
		if errors.As(err, &inflated) {
			s.reject(1, fmt.Sprintf("messages from offset %d on are more than %d bytes when they are decompressed", inflated.Offset, kafkaInflated), "", nil)
			client.SetOffsets(map[string]map[int32]kgo.EpochOffset{s.broker.Name: {partition: {Epoch: inflated.Epoch, Offset: inflated.NextOffset}}})
			return
		}
		s.warnings.Do(func() { s.log.Warn("source cannot be read, retrying", "partition", partition, "err", err) })
	})
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		p := s.part(f.Partition)
		for _, r := range f.Records {
			if err != nil || p == nil || p.revoked.Load() || reading.Err() != nil {
				return
			}
			s.checkGap(client, p, f, r)
			err = s.record(ctx, p, r)
		}
	})
	return err
}

// record delivers the lines of one message.
func (s *kafkaSource) record(ctx context.Context, p *part, r *kgo.Record) error {
	m := inbound{
		// The timestamp distinguishes messages of a recreated topic.
		key:   fmt.Sprintf("%s/%d/%d@%d", s.broker, r.Partition, r.Offset, r.Timestamp.UnixMilli()),
		probe: string(r.Key), value: r.Value,
	}
	for _, h := range r.Headers {
		switch h.Key {
		case broker.HeaderFormat:
			m.format = string(h.Value)
		case broker.HeaderPath:
			m.path = string(h.Value)
		}
	}
	end := r.Offset + 1
	err := s.deliver(ctx, &m, func() { p.Deliver(end) }, func() { p.Ack(end) })
	if err == nil {
		p.Skip(end)
	}
	return err
}

// checkGap warns if messages that precede r were deleted before they were read.
func (s *kafkaSource) checkGap(client *kgo.Client, p *part, f kgo.FetchTopicPartition, r *kgo.Record) {
	if p.next == 0 {
		p.next = client.CommittedOffsets()[s.broker.Name][f.Partition].Offset
	}
	if p.next > 0 && p.next < f.LogStartOffset && p.next < r.Offset {
		s.set.counts.Vanished.Add(1)
		s.log.Warn("messages were deleted from the topic before they were read", "partition", f.Partition, "from", p.next, "to", min(r.Offset, f.LogStartOffset))
	}
	p.next = r.Offset + 1
}

func (s *kafkaSource) part(number int32) *part {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[number]
}

func (s *kafkaSource) assigned() []*part {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.parts))
}

// onAssigned is called when partitions are assigned to this member.
func (s *kafkaSource) onAssigned(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, number := range topics[s.broker.Name] {
		s.parts[number] = &part{}
	}
	s.log.Info("partitions assigned", "group", s.group, "partitions", len(s.parts))
}

// onRevoked is called before partitions move to another member. It waits until the lines
// delivered from these partitions are acked, but no longer than kafkaHandOver. Then it
// commits the acked offsets.
func (s *kafkaSource) onRevoked(ctx context.Context, client *kgo.Client, topics map[string][]int32) {
	var parts []*part
	for _, number := range topics[s.broker.Name] {
		if p := s.part(number); p != nil {
			p.revoked.Store(true)
			parts = append(parts, p)
		}
	}
	wait, cancel := context.WithTimeout(ctx, kafkaHandOver)
	defer cancel()
	s.drain(wait, parts)
	s.commit(ctx, client)
	s.onLost(ctx, client, topics)
}

// onLost is called after partitions have moved to another member.
func (s *kafkaSource) onLost(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, number := range topics[s.broker.Name] {
		if p := s.parts[number]; p != nil {
			p.revoked.Store(true)
			delete(s.parts, number)
		}
	}
}

// drain waits until all lines delivered from the given partitions are acked, or ctx is
// done.
func (s *kafkaSource) drain(ctx context.Context, parts []*part) {
	for _, p := range parts {
		retry.Until(ctx, drainPoll, p.Drained)
	}
}

// commits calls commit every saveEvery, and whenever s.window.Due signals, until ctx is
// done.
func (s *kafkaSource) commits(ctx context.Context, client *kgo.Client) {
	t := time.NewTicker(saveEvery)
	defer t.Stop()
	for {
		select {
		case <-s.window.Due():
		case <-t.C:
		case <-ctx.Done():
			return
		}
		if !s.commit(ctx, client) && retry.Sleep(ctx, saveEvery) != nil {
			return
		}
	}
}

var errNoAnswer = errors.New("the broker does not answer for all partitions")

// commit commits the acked offsets and reports whether it succeeded.
func (s *kafkaSource) commit(ctx context.Context, client *kgo.Client) bool {
	s.committing.Lock()
	defer s.committing.Unlock()
	acked := s.window.Snapshot()
	offsets := map[int32]kgo.EpochOffset{}
	s.mu.Lock()
	parts := maps.Clone(s.parts)
	s.mu.Unlock()
	for number, p := range parts {
		if pos := p.Position(); pos > p.committed {
			offsets[number] = kgo.EpochOffset{Epoch: -1, Offset: pos}
		}
	}
	if len(offsets) > 0 {
		var failure error
		client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{s.broker.Name: offsets},
			func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
				failure = err
				if err != nil {
					return
				}
				answered := 0
				for _, topic := range resp.Topics {
					for _, answer := range topic.Partitions {
						asked, ok := offsets[answer.Partition]
						if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
							failure = err
						} else if ok {
							parts[answer.Partition].committed = asked.Offset
							answered++
						}
					}
				}
				if failure == nil && answered < len(offsets) {
					failure = errNoAnswer
				}
			})
		if failure != nil && ctx.Err() != nil {
			return false
		}
		s.failing.Set(failure, s.log, "offsets cannot be committed: the source pauses when the window is full", "offsets committed again")
		if failure != nil {
			return false
		}
	}
	s.window.Save(acked)
	return true
}

// leave commits once more and leaves the group, so that other members get the partitions
// without waiting for the session timeout.
func (s *kafkaSource) leave(client *kgo.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	s.commit(ctx, client)
	err := client.LeaveGroupContext(ctx)
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = s.group
	member := kmsg.NewLeaveGroupRequestMember()
	member.InstanceID = &s.instance
	req.Members = append(req.Members, member)
	if err == nil {
		_, err = req.RequestWith(ctx, client)
	}
	if err != nil {
		s.log.Info("consumer group not left: other members wait for this one", "err", err, "timeout", s.session)
	}
	client.Close()
}
