//! Prints the protocol's test vectors. To renew the committed ones after a change of the protocol:
//!
//! ```text
//! cargo run -p protocol-sm --example vectors > protocol-sm/vectors.json
//! ```
mod document;

fn main() {
    print!("{}", document::document());
}
