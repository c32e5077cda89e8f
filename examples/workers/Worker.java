// A worker on pgjdbc:  java -cp postgresql.jar Worker.java      and a producer:  … Worker.java enqueue KIND JSON
import java.sql.*;
import java.util.concurrent.*;
import org.postgresql.PGConnection;

class Worker {
    static final String name = "java:" + ProcessHandle.current().pid() + ":" + System.nanoTime();
    static final String queue = env("PGQ_QUEUE", "default");
    static final String CLAIM = "SELECT id, token, kind, args ->> 'n' AS n, args -> 'value' AS value, "
        + "args ->> 'message' AS message, args ->> 'seconds' AS seconds "
        + "FROM pgq_claim(ARRAY[?], 1, make_interval(secs => ?), ?)";
    // No row: an operator has cancelled the job. An error: the lease is lost.
    static final String EXTEND = "SELECT FROM pgq_extend(?, ?, make_interval(secs => ?)) "
        + "WHERE NOT EXISTS (SELECT FROM pgq_cancel_requested(ARRAY[?], ARRAY[?]))";
    static final String WRITE = "INSERT INTO conformance_effect VALUES (?, ?::bigint, ?::jsonb)";
    static final int lease = Integer.parseInt(env("PGQ_LEASE", "60"));
    static volatile boolean stopping;

    static String env(String key, String other) { return System.getenv().getOrDefault(key, other); }

    static Connection connect() throws SQLException { // unlike libpq, pgjdbc reads no environment
        return DriverManager.getConnection("jdbc:postgresql://%s:%s/%s".formatted(
            env("PGHOST", "localhost"), env("PGPORT", "5432"), env("PGDATABASE", "")), env("PGUSER", "postgres"), "");
    }

    // setObject declares a String as varchar, which fits a text, but JSON needs ?::jsonb; a Long is a bigint.
    static ResultSet query(Connection db, String sql, Object... values) throws SQLException {
        PreparedStatement statement = db.prepareStatement(sql);
        for (int n = 0; n < values.length; n++) statement.setObject(n + 1, values[n]);
        return statement.execute() ? statement.getResultSet() : null;
    }

    // A handler works outside of a transaction. The JDK decodes no JSON, so SQL takes apart what is needed here.
    static void handle(String kind, ResultSet args) throws Exception {
        switch (kind) {
            case "conformance.write" -> { }
            case "conformance.slow" -> Thread.sleep((long) (1000 * args.getDouble("seconds")));
            case "conformance.fail" -> throw new Exception(args.getString("message"));
            default -> throw new ClassNotFoundException(kind);
        }
    }

    static void run(Connection db, Connection side, Long id, Long token, ResultSet job) throws Exception {
        Thread handler = Thread.currentThread();
        var keeper = Executors.newSingleThreadScheduledExecutor();
        Runnable keep = () -> {
            try (ResultSet row = query(side, EXTEND, id, token, lease, id, token)) {
                if (row.next()) return;
            } catch (SQLException lost) { }
            handler.interrupt();
        };
        keeper.scheduleAtFixedRate(keep, lease * 333L, lease * 333L, TimeUnit.MILLISECONDS);
        try {
            handle(job.getString("kind"), job);
            keeper.shutdownNow();
            keeper.awaitTermination(10, TimeUnit.SECONDS); // from here on nothing interrupts
            Thread.interrupted();
            db.setAutoCommit(false);
            query(db, WRITE, id, job.getString("n"), job.getString("value"));
            query(db, "SELECT pgq_complete(?, ?)", id, token);
            db.commit();
        } catch (ClassNotFoundException unknown) {
            query(db, "SELECT pgq_decline(?, ?)", id, token);
        } catch (Exception error) {
            // Throws if the connection is lost: then the job is done, or its lease ends.
            if (!db.getAutoCommit()) db.rollback();
            db.setAutoCommit(true);
            try { query(db, "SELECT pgq_fail(?, ?, ?)", id, token, error.toString()); }
            catch (SQLException lost) { if (!"PGQ02".equals(lost.getSQLState())) throw lost; }
        } finally {
            keeper.shutdownNow();
            keeper.awaitTermination(10, TimeUnit.SECONDS);
            Thread.interrupted();
        }
        db.setAutoCommit(true);
    }

    static void serve(Connection db, Connection side) throws Exception {
        query(side, "SELECT pgq_register(?, ARRAY[?])", name, queue);
        for (boolean asleep = false, found; !stopping; asleep = !found) {
            ResultSet job = query(db, CLAIM, queue, lease, name);
            found = job.next();
            if (found && asleep) query(side, "SELECT pgq_idle(ARRAY[?], false)", queue);
            else if (asleep) side.unwrap(PGConnection.class).getNotifications(1000);
            else if (!found)
                for (ResultSet row = query(side, "SELECT pgq_idle(ARRAY[?])", queue); row.next(); )
                    query(side, "LISTEN \"" + row.getString(1) + "\"");
            if (found) run(db, side, job.getLong("id"), job.getLong("token"), job);
        }
        query(side, "SELECT pgq_unregister(?)", name);
    }

    public static void main(String[] args) throws Exception {
        Thread main = Thread.currentThread();
        if (args.length == 3) {
            ResultSet row = query(connect(), "SELECT id FROM pgq_enqueue(?, ?::jsonb, ?)", args[1], args[2], queue);
            row.next();
            System.out.println(row.getLong(1));
            return;
        }
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping = true;
            try { main.join(); } catch (InterruptedException ignored) { }
            Runtime.getRuntime().halt(0);
        }));
        while (!stopping)
            try (Connection db = connect(); Connection side = connect()) { serve(db, side); }
            catch (SQLException error) { System.err.println(error.getMessage()); Thread.sleep(500); }
    }
}
