"""What do engines that serve an exported model need of ptw?"""
