// River, which posts what a trigger has added: `post setup URL`, and `post run URL SINK`. Used by the
// benchmark in `e2e/speed`.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// Requests under way.
const concurrency = 64

// A row, as the trigger has added it.
type row struct {
	json.RawMessage
}

func (row) Kind() string { return "post" }

type poster struct {
	river.WorkerDefaults[row]
	client *http.Client
	sink   string
}

func (p *poster) Work(ctx context.Context, job *river.Job[row]) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.sink, bytes.NewReader(job.EncodedArgs))
	if err != nil {
		return err
	}
	request.Header.Set("content-type", "application/json")
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("answered with %s", response.Status)
	}
	return nil
}

func setup(ctx context.Context, pool *pgxpool.Pool) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func work(ctx context.Context, pool *pgxpool.Pool, sink string) error {
	transport := &http.Transport{MaxIdleConns: concurrency, MaxIdleConnsPerHost: concurrency}
	workers := river.NewWorkers()
	river.AddWorker(workers, &poster{client: &http.Client{Transport: transport}, sink: sink})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: concurrency}},
		Workers:           workers,
		FetchCooldown:     time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	return client.Stop(context.WithoutCancel(ctx))
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 3 {
		return fmt.Errorf("setup URL, or run URL SINK")
	}
	config, err := pgxpool.ParseConfig(os.Args[2])
	if err != nil {
		return err
	}
	config.MaxConns = 10
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	switch {
	case os.Args[1] == "setup":
		return setup(ctx, pool)
	case os.Args[1] == "run" && len(os.Args) == 4:
		return work(ctx, pool, os.Args[3])
	default:
		return fmt.Errorf("setup URL, or run URL SINK")
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
