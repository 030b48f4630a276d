//! Tests of the whole logic.
