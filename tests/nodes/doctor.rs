//! `haversack doctor` with PostgreSQL.

use haversack_testkit::postgres::create_schema;
use haversack_testkit::program::{haversack, run, stdout};

#[tokio::test]
async fn doctor_reports_state_of_postgresql() {
    let folder = tempfile::tempdir().expect("folder");
    let url = create_schema()
        .await
        .expect("see tests/cluster/with-postgres.sh");
    let doctor = |connections: &str| {
        let mut command = haversack(&folder.path().join("data"));
        command
            .env("HAVERSACK_DATABASE_URL", &url)
            .env("HAVERSACK_DATABASE_CONNECTIONS", connections);
        run(command.arg("doctor"))
    };
    let empty = doctor("16");
    assert!(empty.status.success(), "{}", stdout(&empty));
    assert!(
        stdout(&empty).contains("24 of ") && stdout(&empty).contains("will be created"),
        "{}",
        stdout(&empty)
    );
    assert!(
        run(haversack(folder.path())
            .arg("migrate")
            .env("HAVERSACK_DATABASE_URL", &url))
        .status
        .success()
    );
    assert!(stdout(&doctor("16")).contains("opened, durable, 0 partner(s)"));
    let many = doctor("100000");
    assert!(
        !many.status.success() && stdout(&many).contains("raise max_connections"),
        "{}",
        stdout(&many)
    );
}
