//! Which gateway pods there are: the pod watch, shared by ipconfig and routing.
