"""The declarations of the options, one module for each subject; `Settings` is all of them together.

The classes here only hold fields.  They have no slots: a class cannot inherit from several classes with slots.  Every
field but `application` is a keyword argument.
"""
