<?php // A worker on PDO:  php worker.php      and a producer:  php worker.php enqueue KIND JSON
class Snooze extends Exception {}
$queue = getenv('PGQ_QUEUE') ?: 'default';
$lease = (int) (getenv('PGQ_LEASE') ?: 60);
$name = 'php:' . getmypid() . ':' . bin2hex(random_bytes(3));
$stopping = false;
const CLAIM = 'SELECT id, token, kind, args FROM pgq_claim(ARRAY[?], 1, make_interval(secs => ?), ?)';
// No row: an operator has cancelled the job. An error: the lease is lost.
const EXTEND = 'SELECT FROM pgq_extend(:id, :token, make_interval(secs => :lease))
                WHERE NOT EXISTS (SELECT FROM pgq_cancel_requested(ARRAY[:id], ARRAY[:token]))';
pcntl_async_signals(true);
pcntl_signal(SIGTERM, function () { global $stopping; $stopping = true; });

// PDO passes all values as text and declares no types. With emulated prepares it would quote them itself.
function query(PDO $db, string $sql, array $values): array {
    $statement = $db->prepare($sql);
    $statement->execute($values);
    return $statement->fetchAll(PDO::FETCH_ASSOC);
}
function connect(): PDO {
    $options = [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_EMULATE_PREPARES => false];
    return new PDO('pgsql:', null, null, $options); // libpq reads PGHOST, PGUSER, …
}

// A handler works outside of a transaction, and returns what to do in the one that completes its job.
// Decoded as objects, because [] and {} are the same as arrays; a number beyond 64 bits would lose digits as a float.
$write = fn($job, $args) => fn($db) => query($db, 'INSERT INTO conformance_effect VALUES (?, ?, ?)',
    [$job['id'], $args->n ?? null, json_encode($args->value ?? null, JSON_THROW_ON_ERROR, 4096)]);
$handlers = [
    'conformance.write' => $write,
    'conformance.slow' => function ($job, $args) use ($write) {
        $end = microtime(true) + $args->seconds;
        while (($left = $end - microtime(true)) > 0) usleep((int) (1e6 * $left)); // a signal ends a sleep
        return $write($job, $args);
    },
    'conformance.fail' => fn($job, $args) => throw new Exception($args->message),
    'conformance.snooze' => fn($job, $args) =>
        microtime(true) < $args->until ? throw new Snooze($args->until) : $write($job, $args),
];

function run(PDO $db, PDO $side, array $job): mixed {
    global $handlers, $lease;
    $key = [$job['id'], $job['token']];
    if (!isset($handlers[$job['kind']])) return query($db, 'SELECT pgq_decline(?, ?)', $key);
    // PHP has no threads: the alarm interrupts the handler, and extends its lease through another connection.
    pcntl_signal(SIGALRM, function () use ($side, $key, $lease) {
        $held = query($side, EXTEND, ['id' => $key[0], 'token' => $key[1], 'lease' => $lease]);
        if (!$held) throw new Exception('cancelled');
        pcntl_alarm(intdiv($lease, 3));
    });
    pcntl_alarm(intdiv($lease, 3));
    try {
        $effect = $handlers[$job['kind']]($job, json_decode($job['args'], false, 4096, JSON_THROW_ON_ERROR));
        pcntl_alarm(0);
        $db->beginTransaction();
        $effect($db);
        query($db, 'SELECT pgq_complete(?, ?)', $key);
        $db->commit();
    } catch (Throwable $error) {
        pcntl_alarm(0);
        // Throws if the connection is lost: then the job is done, or its lease ends.
        if ($db->inTransaction()) $db->rollBack();
        if ($error->getCode() === 'PGQ02') return null;
        $call = $error instanceof Snooze ? 'pgq_snooze(?, ?, to_timestamp(?))' : 'pgq_fail(?, ?, ?)';
        try { query($db, "SELECT $call", [...$key, $error->getMessage()]); }
        catch (PDOException $late) { if ($late->getCode() !== 'PGQ02') throw $late; }
    }
    return null;
}

$db = connect();
if (($argv[1] ?? '') === 'enqueue')
    exit(query($db, 'SELECT id FROM pgq_enqueue(?, ?, ?)', [$argv[2], $argv[3], $queue])[0]['id'] . "\n");
$side = connect();
query($side, 'SELECT pgq_register(?, ARRAY[?])', [$name, $queue]);
for ($asleep = false; !$stopping; $asleep = !$job) { // an exception ends the worker: a service manager starts it again
    $job = query($db, CLAIM, [$queue, $lease, $name])[0] ?? null;
    if ($job && $asleep) query($side, 'SELECT pgq_idle(ARRAY[?], false)', [$queue]);
    if ($job) run($db, $side, $job);
    elseif ($asleep) $side->pgsqlGetNotify(PDO::FETCH_ASSOC, 1000);
    else foreach (query($side, 'SELECT pgq_idle(ARRAY[?]) AS channel', [$queue]) as ['channel' => $channel])
        $side->exec("LISTEN \"$channel\"");
}
query($side, 'SELECT pgq_unregister(?)', [$name]);
