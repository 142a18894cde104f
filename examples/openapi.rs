//! Prints the `OpenAPI` document: `cargo run --example openapi > docs/reference/openapi.json`.

fn main() {
    println!("{}", haversack::http::api::openapi());
}
