// A worker on tokio-postgres:  worker      and a producer:  worker enqueue KIND JSON
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::{env, time::Duration};
use tokio::signal::unix::{signal, SignalKind};
use tokio::time::sleep;
use tokio_postgres::{Client, Error, NoTls, Row};

static STOPPING: AtomicBool = AtomicBool::new(false);
// SQL takes apart what is needed here, so no crate for JSON is.
const CLAIM: &str = "SELECT id, token, kind, args::text, args ->> 'seconds', coalesce(args ->> 'message', '')
    FROM pgq_claim(ARRAY[$1], 1, make_interval(secs => $2), $3)";
// No row: an operator has cancelled the job. An error: the lease is lost.
const EXTEND: &str = "SELECT FROM pgq_extend($1, $2, make_interval(secs => $3))
    WHERE NOT EXISTS (SELECT FROM pgq_cancel_requested(ARRAY[$1], ARRAY[$2]))";
// One statement is one transaction: it writes nothing if pgq_complete raises PGQ02. A String is text, never jsonb.
const WRITE: &str = "INSERT INTO conformance_effect SELECT $1, (a -> 'n')::bigint, coalesce(a -> 'value', 'null')
    FROM CAST($3::text AS jsonb) AS a, pgq_complete($1, $2)";

fn env_or(key: &str, other: &str) -> String {
    env::var(key).unwrap_or(other.to_string())
}

async fn connect() -> Result<Client, Error> {
    let keys = [("host", "PGHOST"), ("port", "PGPORT"), ("user", "PGUSER"), ("dbname", "PGDATABASE")];
    let found = keys.iter().filter_map(|(key, name)| Some(format!("{key}='{}' ", env::var(name).ok()?)));
    let (client, connection) = tokio_postgres::connect(&found.collect::<String>(), NoTls).await?;
    tokio::spawn(connection); // it ends with the client
    Ok(client)
}

async fn handle(kind: &str, job: &Row) -> Result<(), String> {
    if kind == "conformance.slow" {
        let seconds = job.get::<_, Option<&str>>(4).and_then(|text| text.parse().ok()).ok_or("no seconds")?;
        sleep(Duration::from_secs_f64(seconds)).await;
    }
    if kind == "conformance.fail" {
        Err(job.get(5))
    } else {
        Ok(())
    }
}

async fn run(db: &Client, side: &Client, lease: f64, job: &Row) -> Result<(), Error> {
    let (id, token, kind): (i64, i64, &str) = (job.get(0), job.get(1), job.get(2));
    if !["conformance.write", "conformance.slow", "conformance.fail"].contains(&kind) {
        return db.execute("SELECT pgq_decline($1, $2)", &[&id, &token]).await.map(drop);
    }
    let keep = async {
        while let Ok(Some(_)) = side.query_opt(EXTEND, &[&id, &token, &lease]).await {
            sleep(Duration::from_secs_f64(lease / 3.0)).await;
        }
    };
    let mut end = tokio::select! { end = handle(kind, job) => end, _ = keep => Err("lost or cancelled".into()) };
    if end.is_ok() {
        end = match db.execute(WRITE, &[&id, &token, &job.get::<_, &str>(3)]).await {
            // Without a SQLSTATE the connection is lost: the job is done, or its lease ends.
            Err(error) if error.code().is_none() => return Err(error),
            other => other.map(drop).map_err(|error| error.to_string()),
        }
    }
    if let Err(text) = end {
        // Refused if the lease is lost.
        let _ = db.execute("SELECT pgq_fail($1, $2, $3)", &[&id, &token, &text]).await;
    }
    Ok(())
}

async fn serve(queue: &str, lease: f64) -> Result<(), Error> {
    let (db, side, name) = (connect().await?, connect().await?, format!("rust:{}", std::process::id()));
    side.execute("SELECT pgq_register($1, ARRAY[$2])", &[&name, &queue]).await?;
    while !STOPPING.load(Relaxed) {
        match db.query_opt(CLAIM, &[&queue, &lease, &name]).await? {
            Some(job) => run(&db, &side, lease, &job).await?,
            None => sleep(Duration::from_millis(200)).await,
        }
    }
    side.execute("SELECT pgq_unregister($1)", &[&name]).await.map(drop)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let (queue, words) = (env_or("PGQ_QUEUE", "default"), env::args().collect::<Vec<_>>());
    if words.len() == 4 {
        let query = "SELECT id FROM pgq_enqueue($1, CAST($2::text AS jsonb), $3)";
        let job = connect().await?.query_one(query, &[&words[2], &words[3], &queue]).await?;
        println!("{}", job.get::<_, i64>(0));
        return Ok(());
    }
    let mut stop = signal(SignalKind::terminate()).expect("a signal can be handled");
    tokio::spawn(async move { stop.recv().await.map(|_| STOPPING.store(true, Relaxed)) });
    while !STOPPING.load(Relaxed) {
        if let Err(error) = serve(&queue, env_or("PGQ_LEASE", "60").parse().unwrap_or(60.0)).await {
            eprintln!("{error}");
            sleep(Duration::from_millis(500)).await;
        }
    }
    Ok(())
}
