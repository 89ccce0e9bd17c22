package clickhouse

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

const (
	// replicaPatience is how long an import waits for a replica. If the replica is
	// still behind after that, imports do not wait for it again until replicaBehind
	// has passed.
	replicaPatience = time.Minute
	replicaBehind   = 5 * time.Minute
)

// awaitReplicas waits until all active replicas of a log type's table have the inserted
// rows. The server acknowledges an INSERT as soon as one replica has the rows. If that
// replica were then destroyed, rows that have a record would be lost.
//
// The setting insert_quorum does not help: without insert_quorum_parallel, a server
// refuses a second INSERT with a quorum into a table while one is running.
//
// On any node, ZooKeeper shows each replica's progress: the table's log, the position up
// to which each replica has copied the log to its queue, and the remaining entries of
// that queue.
func (s *Store) awaitReplicas(ctx context.Context, host, logType string) error {
	var paths []string
	err := s.query(ctx, host, params{"skip_unavailable_shards": "1"}, "select distinct zookeeper_path from cluster("+name(s.cfg.cluster)+", system.replicas) where database = "+
		text(s.cfg.database)+" and table = "+text(localTable(logType)), func(row []string) error {
		paths = append(paths, row[0])
		return nil
	})
	if err != nil {
		return err
	}
	for _, path := range paths {
		log, err := s.keeper(ctx, host, path+"/log")
		if err != nil {
			return err
		}
		last := int64(-1)
		for entry := range log {
			if n, err := strconv.ParseInt(strings.TrimPrefix(entry, "log-"), 10, 64); err == nil {
				last = max(last, n)
			}
		}
		replicas, err := s.keeper(ctx, host, path+"/replicas")
		if err != nil {
			return err
		}
		for replica := range replicas {
			if err := s.awaitReplica(ctx, host, path+"/replicas/"+replica, last); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitReplica waits until the replica at a ZooKeeper path has the rows of all entries in
// the table's log up to a given number. It does not wait for an inactive replica, and
// gives up after replicaPatience: the replica eventually gets all rows as long as another
// replica has them.
func (s *Store) awaitReplica(ctx context.Context, host, path string, last int64) error {
	s.mu.Lock()
	behind := time.Now().Before(s.behind[path])
	s.mu.Unlock()
	if behind {
		return nil
	}
	end := time.Now().Add(replicaPatience)
	var missing map[string]string // queue entries to wait for; nil if not read yet
	for b := retry.New(5*time.Millisecond, 250*time.Millisecond); ; {
		replica, err := s.keeper(ctx, host, path)
		if err != nil {
			return err
		}
		if _, alive := replica["is_active"]; !alive {
			return nil
		}
		if next, err := strconv.ParseInt(replica["log_pointer"], 10, 64); err == nil && next > last {
			queue, err := s.keeper(ctx, host, path+"/queue")
			if err != nil {
				return err
			}
			if missing == nil {
				missing = queue
			}
			maps.DeleteFunc(missing, func(entry, what string) bool {
				_, left := queue[entry]
				return !left || !strings.Contains(what, "\nget\n") // for example a merge
			})
			if len(missing) == 0 {
				return nil
			}
		}
		if time.Now().After(end) {
			s.log.Warn("replica is behind; imports no longer wait for it", "store", s.url, "replica", path, "for", replicaBehind)
			s.mu.Lock()
			s.behind[path] = time.Now().Add(replicaBehind)
			s.mu.Unlock()
			return nil
		}
		if b.Wait(ctx) != nil {
			return ctx.Err()
		}
	}
}

// keeper returns the nodes below a ZooKeeper path, with their values. It
// returns nil if the path does not exist.
func (s *Store) keeper(ctx context.Context, host, path string) (map[string]string, error) {
	nodes := map[string]string{}
	err := s.query(ctx, host, nil, "select name, value from system.zookeeper where path = "+text(path), func(row []string) error {
		if len(row) != 2 {
			return errFields
		}
		nodes[row[0]] = row[1]
		return nil
	})
	if codeOf(err) == codeKeeper && strings.Contains(err.Error(), "No node") {
		return nil, nil
	}
	if err != nil {
		err = fmt.Errorf("read ZooKeeper: %w", err)
	}
	return nodes, err
}
