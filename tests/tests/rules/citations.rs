//! Every rule of PROTOCOL.md is shown by a test.
