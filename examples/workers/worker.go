// A worker on lib/pq:  worker      and a producer:  worker enqueue KIND JSON
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "github.com/lib/pq" // its Listener has a session of its own, which cannot call pgq_idle: this worker looks often
)

const (
	claim = "SELECT id, token, kind, args::text FROM pgq_claim(ARRAY[$1], 1, make_interval(secs => $2))"
	// No row: an operator has cancelled the job. An error: the lease is lost.
	extend = `SELECT FROM pgq_extend($1, $2, make_interval(secs => $3))
	          WHERE NOT EXISTS (SELECT FROM pgq_cancel_requested(ARRAY[$1], ARRAY[$2]))`
	// One statement is one transaction: it writes nothing if pgq_complete raises PGQ02.
	write = "INSERT INTO conformance_effect SELECT $1, $3, $4 FROM pgq_complete($1, $2)"
)

var errUnknown = errors.New("no handler")

func handle(ctx context.Context, db *sql.DB, id, token int64, kind, text string) error {
	var args struct {
		N       *int64
		Seconds float64
		Message string
		Value   json.RawMessage // keeps every digit
	}
	args.Value = json.RawMessage("null")
	if err := json.Unmarshal([]byte(text), &args); err != nil {
		return err
	}
	switch kind {
	case "conformance.write":
	case "conformance.fail":
		return errors.New(args.Message)
	case "conformance.slow":
		select {
		case <-time.After(time.Duration(args.Seconds * 1e9)):
		case <-ctx.Done():
			return errors.New("the job is lost or cancelled")
		}
	default:
		return errUnknown
	}
	_, err := db.Exec(write, id, token, args.N, string(args.Value)) // a []byte would be sent as bytea
	return err
}

func run(db *sql.DB, lease float64, id, token int64, kind, text string) {
	ctx, over := context.WithCancel(context.Background())
	defer over()
	go func() { // through another connection of the pool
		for err := error(nil); err == nil && ctx.Err() == nil; time.Sleep(time.Duration(lease / 3 * 1e9)) {
			err = db.QueryRow(extend, id, token, lease).Scan()
		}
		over()
	}()
	if err := handle(ctx, db, id, token, kind, text); err == errUnknown {
		db.Exec("SELECT pgq_decline($1, $2)", id, token)
	} else if err != nil { // refused if the job is lost, or done although the connection was
		db.Exec("SELECT pgq_fail($1, $2, $3)", id, token, err.Error())
	}
}

func main() {
	queue := os.Getenv("PGQ_QUEUE")
	lease, _ := time.ParseDuration(os.Getenv("PGQ_LEASE") + "s")
	stop, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	db, _ := sql.Open("postgres", "") // reads PGHOST, PGUSER, …; PGSSLMODE=disable for a server without TLS
	var id, token int64
	var kind, text string
	if len(os.Args) == 4 {
		if err := db.QueryRow("SELECT id FROM pgq_enqueue($1, $2, $3)", os.Args[2], os.Args[3], queue).Scan(&id); err != nil {
			log.Fatal(err)
		}
		fmt.Println(id)
		return
	}
	for stop.Err() == nil {
		if err := db.QueryRow(claim, queue, lease.Seconds()).Scan(&id, &token, &kind, &text); err == nil {
			run(db, lease.Seconds(), id, token, kind, text)
		} else if time.Sleep(200 * time.Millisecond); err != sql.ErrNoRows {
			log.Print(err)
		}
	}
}
