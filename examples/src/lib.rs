//! Programs that use the client library; see the files beside this package.
