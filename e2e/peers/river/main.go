// River: `river URL default|batched`. Commands come as lines of JSON, each is answered with one.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// How long after the last job was added it may take until all have begun.
const patience = 30 * time.Second

// Completed jobs that the client may tell of before they are read.
const mostUnread = 1 << 20

var zero = time.Now()

// What every job carries, in every system.
type args struct {
	N    int     `json:"n"`
	At   float64 `json:"at"`
	Text string  `json:"text"`
}

func (args) Kind() string { return "noop" }

func payload(n int) args {
	return args{N: n, At: now(), Text: strings.Repeat("x", 100)}
}

// Milliseconds.
func now() float64 { return float64(time.Since(zero).Nanoseconds()) / 1e6 }

type noop struct {
	river.WorkerDefaults[args]
	mutex  sync.Mutex
	waited []float64
}

func (w *noop) Work(_ context.Context, job *river.Job[args]) error {
	waited := now() - job.Args.At
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.waited = append(w.waited, waited)
	return nil
}

type system struct {
	pool    *pgxpool.Pool
	batched bool
}

type command struct {
	Do      string  `json:"do"`
	Jobs    int     `json:"jobs"`
	Batch   int     `json:"batch"`
	Most    float64 `json:"most"`
	Rate    int     `json:"rate"`
	Seconds float64 `json:"seconds"`
}

type answer = map[string]any

// A client that works, and what it did.
type working struct {
	client *river.Client[pgx.Tx]
	worker *noop
	events <-chan *river.Event
	cancel func()
}

func (s *system) client(worker *noop) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, worker)
	config := &river.Config{
		Logger:  slog.New(slog.DiscardHandler),
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 100}},
		Workers: workers,
	}
	if s.batched {
		config.Queues[river.QueueDefault] = river.QueueConfig{MaxWorkers: 2000}
		config.FetchCooldown = 2 * time.Millisecond
		config.FetchPollInterval = 20 * time.Millisecond
	}
	return river.NewClient(riverpgxv5.New(s.pool), config)
}

func (s *system) start(ctx context.Context) (*working, error) {
	worker := &noop{}
	client, err := s.client(worker)
	if err != nil {
		return nil, err
	}
	events, cancel := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: mostUnread,
		Kinds:    []river.EventKind{river.EventKindJobCompleted},
	})
	return &working{client, worker, events, cancel}, client.Start(ctx)
}

// Waits until so many are kept as completed, or until the time is over. Answers with how many.
func (w *working) completes(jobs int, most time.Duration) int {
	end := time.After(most)
	for done := 0; ; done++ {
		if done >= jobs {
			return done
		}
		select {
		case <-w.events:
		case <-end:
			return done
		}
	}
}

func (w *working) stop(ctx context.Context) error {
	defer w.cancel()
	return w.client.Stop(ctx)
}

func (s *system) setup(ctx context.Context) (answer, error) {
	migrator, err := rivermigrate.New(riverpgxv5.New(s.pool), nil)
	if err != nil {
		return nil, err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return answer{}, err
}

func (s *system) insert(ctx context.Context, c command) (answer, error) {
	client, err := s.client(&noop{})
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	for from := 0; from < c.Jobs; from += c.Batch {
		if c.Batch == 1 {
			_, err = client.Insert(ctx, payload(from), nil)
		} else {
			var many []river.InsertManyParams
			for n := from; n < min(from+c.Batch, c.Jobs); n++ {
				many = append(many, river.InsertManyParams{Args: payload(n)})
			}
			if s.batched {
				_, err = client.InsertManyFast(ctx, many)
			} else {
				_, err = client.InsertMany(ctx, many)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return answer{"jobs": c.Jobs, "seconds": time.Since(begun).Seconds()}, nil
}

func (s *system) drain(ctx context.Context, c command) (answer, error) {
	begun := time.Now()
	working, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	done := working.completes(c.Jobs, time.Duration(c.Most*float64(time.Second)))
	took := time.Since(begun).Seconds()
	if err := working.stop(ctx); err != nil {
		return nil, err
	}
	if done < c.Jobs {
		_, err = s.pool.Exec(ctx, "delete from river_job where state <> 'completed'")
	}
	return answer{"jobs": done, "seconds": took, "all": done >= c.Jobs}, err
}

func (s *system) steady(ctx context.Context, c command) (answer, error) {
	working, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	// Not while it is still starting.
	time.Sleep(500 * time.Millisecond)
	total := int(float64(c.Rate) * c.Seconds)
	failures := make(chan error, total)
	begun := time.Now()
	for n := range total {
		time.Sleep(time.Until(begun.Add(time.Duration(n) * time.Second / time.Duration(c.Rate))))
		go func() {
			_, err := working.client.Insert(ctx, payload(n), nil)
			failures <- err
		}()
	}
	for range total {
		err = errors.Join(err, <-failures)
	}
	done := working.completes(total, patience)
	took := time.Since(begun).Seconds()
	if err := errors.Join(err, working.stop(ctx)); err != nil {
		return nil, err
	}
	waited := working.worker.waited
	if len(waited) == 0 {
		return nil, errors.New("no job has begun")
	}
	slices.Sort(waited)
	at := func(of float64) float64 {
		return waited[min(len(waited)-1, int(float64(len(waited))*of))]
	}
	return answer{
		"jobs": total, "seconds": took, "all": done >= total,
		"p50": at(0.5), "p99": at(0.99), "max": at(1),
	}, nil
}

func (s *system) do(ctx context.Context, c command) (answer, error) {
	switch c.Do {
	case "setup":
		return s.setup(ctx)
	case "insert":
		return s.insert(ctx, c)
	case "drain":
		return s.drain(ctx, c)
	case "steady":
		return s.steady(ctx, c)
	case "quit":
		return answer{}, nil
	}
	return nil, fmt.Errorf("there is no %q", c.Do)
}

func run() error {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(os.Args[1])
	if err != nil {
		return err
	}
	s := &system{batched: os.Args[2] == "batched"}
	config.MaxConns = 10
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	defer s.pool.Close()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c command
		err := json.Unmarshal(lines.Bytes(), &c)
		var done answer
		if err == nil {
			done, err = s.do(ctx, c)
		}
		if err != nil {
			done = answer{"error": err.Error()}
		}
		if err := json.NewEncoder(os.Stdout).Encode(done); err != nil || c.Do == "quit" {
			return err
		}
	}
	return lines.Err()
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: river URL default|batched")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
