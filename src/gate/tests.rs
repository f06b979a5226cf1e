//! Every check both ways, on made-up evidence.
