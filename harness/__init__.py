"""What the tests and the benchmarks share: an audit without a server, broken inputs, memory."""
