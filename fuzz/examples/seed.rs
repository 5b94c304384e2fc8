//! Writes the protocol's test vectors into the corpora of the codec's targets, for a fuzzer to start from:
//!
//! ```text
//! cargo run -p fuzz --example seed
//! cargo fuzz cmin ctl_codec        # afterwards: keep only inputs that reach something new
//! ```

use serde_json::Value;
use std::fs;
use std::path::Path;

fn main() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(here.join("../protocol-sm/vectors.json")).expect("vectors.json");
    let vectors: Value = serde_json::from_str(&text).expect("JSON");
    let sections = [
        ("messages", "frame"),
        ("invalid_frames", "frame"),
        ("streams", "hex"),
        ("prefaces", "hex"),
        ("invalid_prefaces", "hex"),
        ("replies", "hex"),
        ("invalid_replies", "hex"),
    ];
    for (section, key) in sections {
        for (i, row) in vectors[section].as_array().expect("a list").iter().enumerate() {
            let target = match row["direction"].as_str() {
                Some("ctl_to_server" | "ctl_to_client") => "ctl_codec",
                Some(_) => "proxy_codec",
                None => "preface",
            };
            let folder = here.join("corpus").join(target);
            fs::create_dir_all(&folder).expect("a corpus");
            let bytes = unhex(row[key].as_str().expect("hex"));
            fs::write(folder.join(format!("{section}-{i}")), bytes).expect("a seed");
        }
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex");
    (0..digits.len()).step_by(2).map(byte).collect()
}
