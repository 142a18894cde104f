# Shortcuts; nothing here is needed to build, test or run.

# Runs everything that CI runs
check:
    bash .ci/run

# Run the server
serve *arguments:
    cargo run --release -- serve {{arguments}}

# The tests
test *arguments:
    cargo test {{arguments}}

# All of it on PostgreSQL and Garage, several servers, and a cluster of which each part is killed or stopped under load
test-cluster outage="20":
    tests/cluster/with-postgres.sh tests/cluster/with-garage.sh cargo test --test it --test nodes -- --skip bucket::
    HAVERSACK_CLUSTER_OUTAGE_SECONDS={{outage}} tests/cluster/with-postgres.sh tests/cluster/with-garage.sh \
        cargo test --test cluster -- --nocapture

# The official clients against a real server
sdk:
    cargo build --release
    bash tests/sdk/run.sh target/release/haversack

# More rounds of killing the server under load
crash rounds="50":
    HAVERSACK_CRASH_ROUNDS={{rounds}} cargo test --test it crash -- --nocapture

# Measure against nginx
bench:
    cargo build --profile dist --bins --examples
    bash bench/run.sh

# Write docs/reference/openapi.json anew
openapi:
    cargo run --quiet -- openapi > docs/reference/openapi.json
