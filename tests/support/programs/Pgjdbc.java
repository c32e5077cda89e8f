// A job's life through pgjdbc: enqueue, claim, extend, fail, claim, complete.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Types;
import java.time.OffsetDateTime;
import java.util.Properties;

public class Pgjdbc {
    private static Connection connection;

    private static long[] call(String query, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(query)) {
            for (int n = 0; n < values.length; n++) {
                if (values[n] instanceof String[] texts) {
                    statement.setArray(n + 1, connection.createArrayOf("varchar", texts));
                } else if (values[n] == null) {
                    statement.setNull(n + 1, Types.VARCHAR);
                } else {
                    statement.setObject(n + 1, values[n]);
                }
            }
            ResultSet rows = statement.executeQuery();
            rows.next();
            boolean isJob = rows.getMetaData().getColumnCount() == 2;
            return isJob ? new long[] {rows.getLong(1), rows.getLong(2)} : new long[0];
        }
    }

    public static void main(String[] where) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", where[2]);
        String url = "jdbc:postgresql://" + where[0] + ":" + where[1] + "/" + where[3];
        connection = DriverManager.getConnection(url, properties);

        OffsetDateTime when = OffsetDateTime.now().minusMinutes(1);
        call("SELECT id FROM pgq_enqueue(?, ?::jsonb, queue => ?, ripe_at => ?, priority => ?, max_retries => ?, "
                + "backoff => ?::interval, dedup => ?)",
                "k", "{\"to\": \"ann\", \"n\": [1, 2.5]}", "q", when, 3, 4L, "90 seconds", false);
        call("SELECT id FROM pgq_enqueue(?, ?::jsonb, queue => ?, delay => make_interval(secs => ?))",
                "later", "[1, 2.5]", "q", 90.5);
        String claim = "SELECT id, token FROM pgq_claim(?, ?, ?::interval, ?)";
        long[] job = call(claim, new String[] {"q"}, 10, "5 minutes", "w");
        call("SELECT pgq_extend(?, ?, ?::interval)", job[0], job[1], "6 minutes");
        call("SELECT pgq_fail(?, ?, ?, make_interval(secs => ?))", job[0], job[1], "why", 0);
        job = call(claim, new String[] {"q"}, 10L, "5 minutes", null);
        call("SELECT pgq_complete(?, ?, ?::jsonb)", job[0], job[1], "{\"sent\": true}");
        connection.close();
    }
}
