"""Studies made of train.py's runs: python -m experiments --help"""
