"""Who may ask for what, from where, and how much: keys, scopes, limits, listen addresses, headers.

Three layers. ``AccessRouter`` says which scopes its routes need, and holds every request for them
to it before the body is read. ``AccessControl`` decides, from the keys of the settings or of a
file. ``SecurityHeaders`` tells browsers what they may do with an answer.
"""
