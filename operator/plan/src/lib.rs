//! What a cluster should look like: a pure function from what is observed to what is to be done.
